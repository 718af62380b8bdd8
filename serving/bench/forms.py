"""The two forms of an item beside each other: codes in and tokens out, against one vector in and a depth head out."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from llm.backbone.heads import DepthHead, VectorReader
from llm.backbone.load import BackboneConfig, load_backbone
from llm.backbone.regularise import BranchDropout
from llm.backbone.sid_model import SidModel
from llm.backbone.vocabulary import SidRows
from llm.decoding import draws
from llm.stage1.adapt import window_loss
from llm.stage1.windows import Window
from recsys.seeds import rng
from semantic_ids.trie import Trie
from serving.bench import world
from serving.bench.case import Result, in_turn, timed

SHOWN = 5  # recent items in a prompt
DRAWS = 30
BEAUTY, DEMO = (256, 256), (64, 64, 64)  # codes a level of configs/beauty.yaml and of the demo
TOKENS, VECTOR = "codes, tokens", "vector, depth"


def forms(quick: bool) -> list[Result]:
    """A Stage 1 step of the small decoder, lists of 30 drawn without replacement, and one user's list."""
    return [_step(quick), *_lists(quick)]


def _step(quick: bool) -> Result:
    """Forward, backward and AdamW of 256 windows as long as Amazon Beauty's; every item is a target."""
    batch, repeats = (32, 3) if quick else (256, 7)
    generator = rng(0, "bench forms")
    lengths = np.clip(np.ceil(generator.lognormal(1.6, 0.6, batch)), 2, 50).astype(int)
    histories = [generator.integers(0, 12_000, length) for length in lengths]
    config = BackboneConfig(name="scratch", layers=4, device="cpu")
    sides = {form: _Stage1(_model(config, BEAUTY, 12_000, form), histories) for form in (TOKENS, VECTOR)}
    timing = in_turn(sides[VECTOR].step, sides[TOKENS].step, repeats)
    tokens = {form: sum(len(window.tokens) for window in side.windows) for form, side in sides.items()}
    layers = world.flops_a_token(sides[VECTOR].model)
    rate, best = 3 * layers * tokens[VECTOR] / median(timing.ours), world.matmul_rate()
    return timed(
        f"Stage 1 step, small decoder, {batch} windows of Beauty's lengths, vector in and depth head out",
        "the same windows, codes in and tokens out",
        timing,
        3.0,
        f"matrix products of the layers, forward and backward: {rate / 1e9:.0f} of {best / 1e9:.0f} GFLOP/s",
        positions=tokens[VECTOR],
        positions_of_codes=tokens[TOKENS],
    )


def _lists(quick: bool) -> list[Result]:
    """The demo's LLM (SmolLM2, 6 layers), five items shown, 30 items drawn without replacement."""
    config = BackboneConfig(name="smollm2", layers=6, device="cpu")
    models = {form: _model(config, DEMO, 9_700, form) for form in (TOKENS, VECTOR)}
    results = []
    for users, repeats, target, what in (
        (4 if quick else 64, 3 if quick else 5, 3.0, "playlists"),
        (1, 3 if quick else 15, 2.0, "one user's list (latency)"),
    ):
        asked = world.requests(users)
        items = rng(0, "bench forms", users).integers(0, 9_700, (users, SHOWN))

        def call(form: str, asked=asked, items=items) -> Callable[[], None]:
            model = models[form]
            head = [model.bos_id or 0, *(model.encode("History:") if form == TOKENS else [])]
            prompts = [[*head, *model.item_tokens[row].ravel().tolist()] for row in items]
            return lambda: _drawn(model, prompts, asked)

        timing = in_turn(call(VECTOR), call(TOKENS), repeats)
        results.append(
            timed(
                f"{DRAWS} items without replacement, SmolLM2's first 6 layers, {users} users: {what}, depth head",
                "the same, tokens out",
                timing,
                target,
                "prompts of six positions, and the head at the nodes on the way",
                lists_a_second=users / median(timing.ours),
                lists_a_second_of_tokens=users / median(timing.peers),
            )
        )
    return results


def _drawn(model: SidModel, prompts: list[list[int]], asked) -> None:
    found = draws.distinct(world.session(model, prompts), asked, DRAWS, seed=0)
    assert all(len(items) == DRAWS for items, _ in found)


def _model(config: BackboneConfig, sizes: tuple[int, ...], n_items: int, form: str) -> SidModel:
    """An untrained model in one of the forms."""
    backbone = load_backbone(config)
    rows, codes = SidRows(sizes, backbone.hidden_size), world.random_codes(n_items, sizes)
    norm = float(backbone.text_embeddings.float().norm(dim=1).mean())
    rows.start_from([None] * len(sizes), norm, seed=0)
    reader, head = None, None
    if form == VECTOR:
        reader, head = VectorReader(rows, codes), DepthHead(rows, width=2 * backbone.hidden_size, layers=1)
        head.start(seed=0)
    return SidModel(backbone, rows, Trie(codes, sizes), reader, head).eval().requires_grad_(False)


class _Stage1:
    """Stage 1 of a model over some histories, with the dropout of configs/beauty.yaml."""

    def __init__(self, model: SidModel, histories: list[np.ndarray]):
        self.model = model.requires_grad_(True)
        depth = isinstance(model.head, DepthHead)
        head = [model.bos_id or 0, *([] if depth else model.encode("History:"))]
        width, self.windows = model.item_tokens.shape[1], []
        for items in histories:
            read = items[:-1] if depth else items
            tokens = [*head, *model.item_tokens[read].ravel().tolist()]
            self.windows.append(Window(tokens, items, len(head) + width * np.arange(len(items))))
        branches = model.head.branches if isinstance(model.head, DepthHead) else ()
        self.dropout = BranchDropout(model.layers, 0.2, 0, branches, quick=depth)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=depth)

    def step(self) -> None:
        self.optimizer.zero_grad()
        with self.dropout.on(0, self.model.device):
            window_loss(self.model, self.windows).backward()
        self.optimizer.step()
