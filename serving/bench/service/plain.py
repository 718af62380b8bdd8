"""What one would write first: a FastAPI handler that calls `Recommender.recommend` under its lock. `python -m serving.bench.service.plain`."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

from serving.answering.recommender import Recommender


def main(run: str, port: int) -> None:
    """Serve `run` on loopback."""
    recommender, app = Recommender.load(run), FastAPI()

    @app.get("/health/ready")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/v1/recommend")
    def recommend(form: dict[str, Any]) -> dict[str, Any]:
        found = recommender.recommend(form.pop("user_id"), **form)
        return {"method": found.method, "path": found.path, "items": [vars(item) for item in found]}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
