"""Rows of the table: whom a retriever knows nothing of, and at which temperature another's vector is measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evaluation.calibration import fit_temperature
from evaluation.table.instances import Question
from serving.answering.methods import Methods
from serving.stages.rows import Validation, table_rows


def rows_of(small_run, *names: str):
    """Rows by name, asked about the validation instances."""
    config, run = small_run
    settings = config.evaluate.model_copy(update={"rows": names, "random_permutations": 1})
    methods = Methods(run, config.model_copy(update={"evaluate": settings}))
    validation = Validation.of(methods, None)
    question = Question(validation.requests, validation.targets, validation.users)
    return methods, validation, {row.name: row for row in table_rows(methods, question)}


def test_a_softmax_of_who_is_not_known_is_popularitys(small_run):
    names = [f"{name} (softmax)" for name in ("Item-kNN", "Embedding Retrieval", "SASRec")]
    methods, validation, rows = rows_of(small_run, *names)
    counts = methods.dataset.item_totals.counts + 1.0
    known = validation.requests[0]
    nobody = replace(known, user=None, history=known.history[:0], history_times=known.history_times[:0])
    for name, key in zip(names, ("item_knn", "embedding_retrieval", "sasrec"), strict=True):
        (softmax,) = rows[name].replicas
        cold, warm = softmax.log_probs([nobody, known])
        np.testing.assert_allclose(np.exp(cold), counts / counts.sum(), rtol=1e-5)
        scores = methods.scorer(key).scores([known])[0] / softmax.t0
        np.testing.assert_allclose(warm, scores - np.logaddexp.reduce(scores.astype(float)), atol=1e-5)


def test_anothers_vector_is_measured_at_a_temperature_of_its_own(small_run):
    methods, validation, rows = rows_of(small_run, "E2P", "E2P-Random")
    other, grid = rows["E2P-Random"], sorted(methods.config.evaluate.temperature_grid)
    log_p = other.replicas[0].log_prob_at(validation.requests, validation.targets, grid)
    fitted = fit_temperature(log_p, grid, validation.users)
    assert (other.matched, other.nats) == pytest.approx((fitted.temperature, fitted.nats))
    assert other.matched != pytest.approx(rows["E2P"].matched)
