"""RQ-VAE: its loss and its moving averages against plain formulas, restarts, collapse, reload and resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import make_blobs

from semantic_ids.quantizer import CHUNK, nearest
from semantic_ids.rqvae import RQVAE, RQVAEConfig

SMALL = RQVAEConfig(hidden=(16,), latent=4, steps=60, warmup=20, batch=64)


def blobs(n: int = 300, dim: int = 8) -> np.ndarray:
    vectors = make_blobs(n, dim, centers=20, cluster_std=0.5, random_state=0)[0]
    return ((vectors - vectors.mean(0)) / vectors.std()).astype(np.float32)


def with_codebooks(model: RQVAE, seed: int = 0) -> RQVAE:
    generator = torch.Generator().manual_seed(seed)
    for book in model.codebooks:
        book.copy_(torch.randn(book.shape, generator=generator))
    model.started.fill_(True)
    return model


def test_the_loss_is_the_papers_formula():
    """mean‖x − x̂‖² + β Σ_l mean‖z − ẑ_l‖², with numpy and plain loops."""
    model = with_codebooks(RQVAE(8, (5, 3), SMALL))
    x = torch.from_numpy(blobs(10))
    z = model.encoder(x).detach().double().numpy()
    books = [book.double().numpy() for book in model.codebooks]
    so_far, commitment = np.zeros_like(z), 0.0
    for book in books:
        for row in range(len(z)):
            so_far[row] += book[((z[row] - so_far[row] - book) ** 2).sum(1).argmin()]
        commitment += ((z - so_far) ** 2).mean()
    x_hat = model.decoder(torch.from_numpy(so_far).float()).detach().double().numpy()
    expected = ((x.double().numpy() - x_hat) ** 2).mean() + SMALL.commitment * commitment
    loss, codes, residuals = model.loss(x)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert np.array_equal(torch.stack(codes, 1).numpy(), model.encode(x.numpy()))
    np.testing.assert_allclose(residuals[0].numpy(), z, rtol=1e-5)


def test_the_gradient_goes_straight_through():
    """With β = 0 the encoder's gradient is the decoder's at ẑ, as if quantisation were the identity."""
    model = with_codebooks(RQVAE(8, (5, 3), SMALL.model_copy(update={"commitment": 0.0})))
    x = torch.from_numpy(blobs(10))
    model.loss(x)[0].backward()
    found = [parameter.grad.clone() for parameter in model.encoder.parameters()]
    z = model.encoder(x)
    z_hat = z.detach() - (
        z.detach() - sum(b[c] for b, c in zip(model.codebooks, model.loss(x)[1], strict=True))
    )
    z_hat.requires_grad_()
    torch.nn.functional.mse_loss(model.decoder(z_hat), x).backward()
    expected = torch.autograd.grad(z, list(model.encoder.parameters()), z_hat.grad)
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


def test_the_commitment_pulls_every_level_and_the_codebooks_hold_still():
    """Its gradient against the plain graph: 2 β / (n d) Σ_l (z − ẑ_l), from autograd on the formula itself."""
    model = with_codebooks(RQVAE(8, (5, 3), SMALL))
    x = torch.from_numpy(blobs(10))
    z = model.encoder(x)
    codes = model.loss(x)[1]
    coded = [sum(model.codebooks[m][codes[m]] for m in range(level + 1)) for level in range(2)]
    plain = torch.nn.functional.mse_loss(model.decoder(z + (coded[-1] - z).detach()), x)
    plain = plain + SMALL.commitment * sum((z - done).square().mean() for done in coded)
    expected = torch.autograd.grad(plain, list(model.parameters()))
    found = torch.autograd.grad(model.loss(x)[0], list(model.parameters()))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_nearest_is_argmin_and_the_lowest_of_a_tie():
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1.0, 1e3):
        rows = scale * torch.randn(CHUNK + 500, 5, generator=generator)
        book = scale * torch.randn(37, 5, generator=generator)
        distance = (rows[:, None].double() - book[None].double()).square().sum(2)
        found = distance.gather(1, nearest(rows, book)[:, None])[:, 0]
        torch.testing.assert_close(found, distance.amin(1), rtol=1e-4, atol=1e-5 * scale**2)
        exact = torch.addmm(book.square().sum(1), rows[:500], book.T, alpha=-2).argmin(1)
        assert torch.equal(nearest(rows[:500], book), exact)
    corners = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert nearest(torch.tensor([[0.0, 0.0], [-2.0, 0.0]]), corners).tolist() == [0, 1]


def test_both_terms_are_on_one_scale():
    """Repeating the dimensions of vectors and latents changes neither term: both are means."""
    for dims in (4, 64):
        model = RQVAE(dims, (2,), SMALL.model_copy(update={"latent": dims, "hidden": ()}))
        model.encoder, model.decoder = torch.nn.Identity(), torch.nn.Identity()
        model.codebooks[0].copy_(torch.stack([torch.zeros(dims), torch.full((dims,), 10.0)]))
        loss = model.loss(torch.full((3, dims), 2.0))[0]
        assert float(loss) == pytest.approx(4 + 0.25 * 4)


def test_codebooks_follow_the_moving_average_by_hand():
    model = RQVAE(1, (2,), SMALL.model_copy(update={"latent": 1, "decay": 0.5}))
    model.get_buffer("count_0").copy_(torch.tensor([2.0, 4.0]))
    model.get_buffer("sum_0").copy_(torch.tensor([[2.0], [8.0]]))
    model.move_codebooks([torch.tensor([0, 0, 1])], [torch.tensor([[3.0], [5.0], [2.0]])])
    # n = (.5·2 + .5·2, .5·4 + .5·1), m = (.5·2 + .5·8, .5·8 + .5·2), e = m / n
    assert model.get_buffer("count_0").tolist() == [2.0, 2.5]
    assert model.codebooks[0].flatten().tolist() == pytest.approx([2.5, 2.0])


def test_dead_codes_restart_on_residuals_and_live_ones_stay():
    model = with_codebooks(RQVAE(8, (4,), SMALL))
    model.get_buffer("count_0").copy_(torch.tensor([50.0, 0.01, 50.0, 0.0]))
    before, residuals = model.codebooks[0].clone(), torch.randn(100, 4)
    assert model.restart_dead([residuals], np.random.default_rng) == 2
    assert torch.equal(model.codebooks[0][[0, 2]], before[[0, 2]])
    for code in (1, 3):
        assert (residuals == model.codebooks[0][code]).all(1).any()
    assert model.restart_dead([residuals], np.random.default_rng) == 0


def test_every_code_is_used_and_most_variance_explained(tmp_path):
    vectors = blobs(800, 16)
    model = RQVAE(16, (16, 16), RQVAEConfig(hidden=(32,), latent=8, steps=200, warmup=40, batch=256))
    model.fit(vectors, tmp_path, seed=0, quiet=True)
    codes = model.encode(vectors)
    assert [len(np.unique(codes[:, level])) for level in range(2)] == [16, 16]
    error = ((vectors - model.decode(codes)) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum()
    coarse = ((vectors - model.decode(codes[:, :1])) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum()
    assert error < 0.15
    assert error < coarse


def test_reloaded_it_encodes_identically_and_knows_that_it_has_started(tmp_path):
    vectors = blobs()
    model = RQVAE(8, (8, 8), SMALL)
    model.fit(vectors, tmp_path / "checkpoint", seed=0, quiet=True)
    save_file(model.state_dict(), str(tmp_path / "model.safetensors"))
    again = RQVAE(8, (8, 8), SMALL)
    assert not again.started
    again.load_state_dict(load_file(str(tmp_path / "model.safetensors")))
    assert again.started
    assert np.array_equal(again.encode(vectors), model.encode(vectors))
    assert np.array_equal(again.encode(vectors[7:8]), model.encode(vectors)[7:8])


@pytest.mark.parametrize("killed_at", [10, 20, 45])  # in the warm-up, as the codebooks start, among restarts
def test_a_killed_fit_resumes_to_the_same_bytes(tmp_path, monkeypatch, killed_at):
    from recsys.training import loop

    vectors, fit = blobs(), loop.fit

    def often(*args, **kwargs):  # a checkpoint at every logged step
        return fit(*args, **kwargs | {"checkpoint_every_s": -1.0, "log_every": 5})

    monkeypatch.setattr(loop, "fit", often)
    whole = RQVAE(8, (8, 8), SMALL)
    whole.fit(vectors, tmp_path / "whole", seed=3, quiet=True)

    class Killed(Exception):
        pass

    killed = RQVAE(8, (8, 8), SMALL)
    calls, batch = [0], __import__("semantic_ids.rqvae", fromlist=["_batch"])._batch

    def dying(*args):
        calls[0] += 1
        if calls[0] > killed_at:
            raise Killed
        return batch(*args)

    monkeypatch.setattr("semantic_ids.rqvae._batch", dying)
    with pytest.raises(Killed):
        killed.fit(vectors, tmp_path / "killed", seed=3, quiet=True)
    monkeypatch.setattr("semantic_ids.rqvae._batch", batch)
    resumed = RQVAE(8, (8, 8), SMALL)
    resumed.fit(vectors, tmp_path / "killed", seed=3, quiet=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_fewer_vectors_than_codes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="64 codes from 10 vectors"):
        RQVAE(8, (64,), SMALL).fit(blobs(10), tmp_path, seed=0)
