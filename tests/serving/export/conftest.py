"""Exports of the small run: whole, with products, and without its users."""

from __future__ import annotations

import shutil

import pytest

from recsys.run import Run
from serving import Recommender
from serving.export.folder import export_run
from tests.support.exports import answers, with_products


@pytest.fixture(scope="session")
def whole(small_run) -> Recommender:
    return Recommender.load(small_run[1].path)


@pytest.fixture(scope="session")
def expected(whole) -> dict[str, list]:
    """What the whole run answers, by method."""
    return {method: answers(whole, method) for method in whole.methods.available()}


@pytest.fixture(scope="session")
def exported(small_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "demo-1"
    export_run(small_run[1].path, out)
    return out


@pytest.fixture(scope="session")
def nobody(small_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "nobody"
    export_run(small_run[1].path, out, without_users=True)
    return out


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of the export that may be spoiled."""
    return shutil.copytree(exported, tmp_path / "copy")


@pytest.fixture(scope="session")
def combined(small_run, tmp_path_factory) -> Run:
    """With every expert that there is."""
    experts = ("embedding_retrieval", "sasrec", "item_knn", "text", "popularity")
    return with_products(small_run, tmp_path_factory.mktemp("combined") / "run", *experts)


@pytest.fixture(scope="session")
def combined_of_items(small_run, tmp_path_factory) -> Run:
    """With the experts that need no user."""
    experts = ("sasrec", "embedding_retrieval", "text", "popularity")
    return with_products(small_run, tmp_path_factory.mktemp("combined") / "run", *experts)


@pytest.fixture(scope="session")
def products_of_nobody(combined_of_items, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "nobody"
    export_run(combined_of_items.path, out, without_users=True)
    return out
