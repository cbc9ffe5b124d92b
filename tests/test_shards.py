"""Parameters in parts, as ZeRO-3 keeps them: whole while they are needed, in one order, and nobody else's business disturbed."""

from enum import Enum

import pytest
import torch
from torch import nn

from launcher.heads import Head, Lora
from launcher.losses import from_hidden, from_logits, logits_of
from launcher.shards import Whole

Status = Enum("Status", ["AVAILABLE", "NOT_AVAILABLE"])


class Shards:
    """Parameters that behave as DeepSpeed's do: empty while in parts. `events` notes what was done to them."""

    def __init__(self):
        self.events = []

    def make(self, number, *shape, whole=False):
        torch.manual_seed(number)
        parameter = nn.Parameter(torch.randn(shape, dtype=torch.float64))
        parameter.ds_id, parameter.full = number, parameter.data
        parameter.all_gather = lambda param_list: self.move(param_list, "gather", Status.AVAILABLE)
        parameter.partition = lambda param_list, has_been_updated: self.move(
            param_list, "part", Status.NOT_AVAILABLE, has_been_updated
        )
        # Autograd notes the shape at a parameter's first use; DeepSpeed sees to that while it is whole, and so holds this.
        parameter.accumulator = parameter.view_as(parameter).grad_fn.next_functions[0][0]
        parameter.ds_status = Status.AVAILABLE
        if not whole:
            self.move([parameter], "", Status.NOT_AVAILABLE)
        return parameter

    def move(self, parameters, event, status, has_been_updated=False):
        assert not has_been_updated
        assert all(parameter.ds_status != status for parameter in parameters), "gathered or parted twice"
        for parameter in parameters:
            parameter.data = parameter.full if status is Status.AVAILABLE else parameter.full.new_empty(0)
            parameter.ds_status = status
        if event:
            self.events.append((event, [parameter.ds_id for parameter in parameters]))


def batch():
    torch.manual_seed(9)
    return torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.randint(11, (6,))


def test_each_is_gathered_once_in_the_order_of_numbers_and_parted_again_even_after_an_error():
    shards = Shards()
    a, b = shards.make(7, 3), shards.make(2, 3)
    with pytest.raises(KeyError), Whole([a, b, a, torch.zeros(3)]):
        assert a.shape == b.shape == (3,)
        raise KeyError
    assert shards.events == [("gather", [2, 7]), ("part", [2, 7])]


def test_what_is_whole_already_is_left_alone():
    shards = Shards()
    with Whole([shards.make(1, 3, whole=True)]):
        pass
    assert shards.events == []
    whole, part = shards.make(1, 3, whole=True), shards.make(2, 3)
    with Whole([whole, part]):
        pass
    assert shards.events == [("gather", [2]), ("part", [2])]


def test_the_loss_gathers_for_both_passes_and_every_parameter_gets_its_gradient():
    shards, (x, labels) = Shards(), batch()
    weight, bias, a, b = shards.make(1, 11, 4), shards.make(2, 11), shards.make(3, 3, 4), shards.make(4, 11, 3)
    head = Head(weight, bias, Lora(a, b, 0.5, nn.Identity()))
    hidden = x * 2
    loss, _ = from_hidden(hidden, head, labels)
    assert shards.events == [("gather", [1, 2, 3, 4]), ("part", [1, 2, 3, 4])]
    loss.backward()
    assert shards.events[2:] == shards.events[:2]
    for parameter in (weight, bias, a, b):
        shards.move([parameter], "", Status.AVAILABLE)
    parameters = [x, weight, bias, a, b]
    plain = torch.autograd.grad(from_logits(logits_of(x * 2, head), labels)[0], parameters)
    for parameter, gradient in zip(parameters, plain, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-13)


def test_evaluation_gathers_once():
    shards, (x, labels) = Shards(), batch()
    head = Head(shards.make(1, 11, 4))
    with torch.no_grad():
        from_hidden(x, head, labels)
    assert shards.events == [("gather", [1]), ("part", [1])]
