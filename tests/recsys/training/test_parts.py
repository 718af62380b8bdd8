"""A loss made in parts is the loss of the whole, and so is its gradient, whatever the gradient is multiplied with."""

import pytest
import torch

from recsys.training.parts import loss_in_parts


@pytest.mark.parametrize("sizes", [[7], [3, 4], [1, 5, 1]])
def test_value_and_gradient_are_those_of_the_whole(sizes):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(5, 3, generator=generator)
    places, targets = torch.randint(5, (7,), generator=generator), torch.randn(7, 3, generator=generator)
    gradients, values = [], []
    for in_parts in (True, False):
        own = table.clone().requires_grad_()
        if in_parts:
            wanted = targets.split(sizes)
            value = loss_in_parts(
                own, places.split(sizes), lambda k, rows, wanted=wanted: (rows - wanted[k]).pow(3).sum()
            )
        else:
            value = (own[places] - targets).pow(3).sum()
        (2.5 * value).backward()
        gradients.append(own.grad)
        values.append(value.detach())
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].abs().sum() > 0
