"""watch(): what it sees inside a model, under everything that people train with."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from rankscope import sdk
from rankscope.sdk import testing
from rankscope.sdk.torch import _clipping, _pace
from rankscope.sdk.torch._layers import norms_of

pytestmark = pytest.mark.usefixtures("sent")


def small(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 32), *(middle or (nn.ReLU(),)), nn.Linear(32, 4))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, **options: Any) -> list[Tensor]:
    """Train on noise and log each step; return the gradients' norms as a reference reads them before each step."""
    norms: list[Tensor] = []
    for step in range(steps):
        x = torch.randn(16, 8)
        if step == options.get("nan_at"):
            x[0, 0] = float("nan")
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        norms.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm())
        optimizer.step()
        sdk.log(loss=float(loss.detach()))
    return norms


def last(sent: testing.Captured, name: str) -> float:
    return sent.scalar(name)[-1][1]


def test_norms_are_those_of_a_hand_written_loop_at_the_steps_they_belong_to(sent: testing.Captured) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=5)
    norms = train(model, optimizer, 11)
    found = sent.scalar("grad_norm")
    assert [step for step, _ in found] == [0, 5, 10]
    assert [value for _, value in found] == pytest.approx([float(norms[step]) for step in (0, 5, 10)])
    layers = [last(sent, f"grad_norm/{layer}") for layer in ("0", "2")]
    assert math.hypot(*layers) == pytest.approx(found[-1][1])
    assert [last(sent, f"{end}_layer_grad_norm") for end in ("first", "last")] == layers


def test_update_ratio_is_the_size_of_the_step_against_the_weights(sent: testing.Captured) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=1)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    train(model, optimizer, 1)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert last(sent, "update_ratio") == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
    assert last(sent, "unchanged_fraction") == 0.0


def test_what_the_user_logs_already_is_left_to_the_user(sent: testing.Captured) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.log(loss=1.0, grad_norm=123.0, lr=7.0)
    sdk.watch(model, optimizer, every=1)
    train(model, optimizer, 3)
    assert (sent.scalar("grad_norm"), sent.scalar("lr")) == ([(0, 123.0)], [(0, 7.0)])
    assert len(sent.scalar("update_ratio")) == 3


def test_what_the_user_logs_later_is_left_to_the_user_from_then_on(sent: testing.Captured) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=1)
    train(model, optimizer, 2)
    sdk.log(grad_norm=123.0)
    train(model, optimizer, 2)
    assert [step for step, _ in sent.scalar("grad_norm")] == [0, 1, 2]


@pytest.mark.parametrize("keyword", [False, True])
def test_gradients_that_a_closure_makes_are_seen(sent: testing.Captured, keyword: bool) -> None:
    model = small()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    sdk.watch(model, optimizer, every=1)
    norms: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(torch.ones(4, 8)).square().mean()
        loss.backward()
        norms.append(float(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()))
        return loss

    loss: Any = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
    assert float(loss.detach()) > 0
    assert len(norms) >= 3
    ((step, value),) = sent.scalar("grad_norm")
    assert step == 0
    assert value == pytest.approx(norms[0])
    assert last(sent, "update_ratio") > 0


def test_steps_count_the_optimizers_steps_where_rows_are_logged_now_and_then(sent: testing.Captured) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=4)
    for step in range(1, 13):
        model(torch.randn(4, 8)).sum().backward()
        optimizer.step()
        if step % 6 == 0:
            sdk.log(loss=1.0, step=step)
    assert [step for step, _ in sent.scalar("grad_norm")][1:] == [4, 9]


def test_gradients_are_seen_once_a_step_under_accumulation(sent: testing.Captured) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=1)
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(4):
            model(torch.randn(4, 8)).sum().backward()
        optimizer.step()
        sdk.log(loss=1.0)
    assert [step for step, _ in sent.scalar("grad_norm")] == [0, 1, 2]


def test_dead_and_saturated_units_by_layer(sent: testing.Captured) -> None:
    first, second = nn.Linear(8, 32), nn.Linear(32, 32)
    with torch.no_grad():
        first.bias[:24], first.bias[24:] = -1e6, 10.0
        second.weight.mul_(1e6)
    model = nn.Sequential(first, nn.ReLU(), second, nn.Tanh())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sdk.watch(model, optimizer, every=2)
    train(model, optimizer, 5)
    assert sent.scalar("dead_fraction") == [(0, 0.75), (2, 0.75), (4, 0.75)]
    assert last(sent, "activations/1/dead_fraction") == 0.75
    assert last(sent, "saturated_fraction") > 0.99


def test_an_evaluation_in_between_is_not_taken_for_training(sent: testing.Captured) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sdk.watch(model, optimizer, every=1)
    model.eval()
    model(torch.full((4, 8), -1e6))
    model.train()
    train(model, optimizer, 1)
    assert last(sent, "dead_fraction") < 0.5


def test_parameters_that_are_frozen_have_no_gradient_or_never_move(sent: testing.Captured) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(self.frozen(x))
            return out

    model = Model()
    model.frozen.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=1)
    train(model, optimizer, 2)
    assert last(sent, "frozen_fraction") == pytest.approx(72 / 288)
    assert last(sent, "no_gradient_fraction") == pytest.approx(144 / 216)
    assert last(sent, "unchanged_fraction") == pytest.approx(144 / 216)


def test_low_rank_adapters_on_a_frozen_model(sent: testing.Captured) -> None:
    class Adapter(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base = base.requires_grad_(False)
            self.lora_a = nn.Linear(base.in_features, 2, bias=False)
            self.lora_b = nn.Linear(2, base.out_features, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.base(x) + self.lora_b(self.lora_a(x))
            return out

    model = nn.Sequential(Adapter(nn.Linear(8, 64)), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    sdk.watch(model, optimizer, every=1)
    train(model, optimizer, 3)
    assert sent.scalar("grad_norm/0.lora_b")
    assert last(sent, "unchanged_fraction") == 0.0


def test_an_optimizer_of_what_was_frozen_since_changes_nothing(sent: testing.Captured) -> None:
    model = nn.Sequential(small(), nn.Linear(4, 4))
    optimizer = torch.optim.AdamW(model[0].parameters(), lr=0.01)
    model[0].requires_grad_(False)
    sdk.watch(model, optimizer, every=1)
    train(model, optimizer, 2)
    assert [value for _, value in sent.scalar("unchanged_fraction")] == [1.0, 1.0]


def test_every_group_has_its_learning_rate_also_one_added_later(sent: testing.Captured) -> None:
    model, added = small(), nn.Linear(4, 4)
    groups: list[dict[str, Any]] = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5}]
    optimizer = torch.optim.AdamW(groups, 0.1)
    sdk.watch(model, optimizer, every=1)
    train(model, optimizer, 2)
    optimizer.add_param_group({"params": added.parameters(), "lr": 0.25, "weight_decay": 0.0})
    added(model(torch.randn(2, 8))).sum().backward()
    optimizer.step()
    assert [last(sent, name) for name in ("lr", "lr/group1", "lr/group2")] == [0.1, 0.5, 0.25]
    assert [last(sent, name) for name in ("weight_decay", "weight_decay/group2")] == [0.01, 0.0]
    assert any("group2" in name for name in sent.scalars if name.startswith("grad_norm/"))


def test_several_optimizers_of_one_model_are_told_apart(sent: testing.Captured) -> None:
    model = small()
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.1 * (i + 1)) for i in (0, 2)]
    sdk.watch(model, every=2)
    for _ in range(4):
        model(torch.randn(4, 8)).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        sdk.log(loss=1.0)
    for name in ("grad_norm", "update_ratio"):
        assert [step for step, _ in sent.scalar(name)] == [0, 2]
        assert [step for step, _ in sent.scalar(f"optimizer1/{name}")] == [0, 2]


def test_an_optimizer_that_steps_less_often_does_not_end_the_watch(sent: testing.Captured) -> None:
    model = small()
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2)]
    sdk.watch(model, every=1)
    for step in range(9):
        model(torch.randn(4, 8)).sum().backward()
        optimizers[0].step()
        if step % 3 == 2:
            optimizers[1].step()
        sdk.log(loss=1.0)
    assert len(sent.scalar("grad_norm")) == 9


def test_optimizers_of_other_models_are_left_alone(sent: testing.Captured) -> None:
    model, other = small(), small()
    sdk.watch(model, every=1)
    train(other, torch.optim.SGD(other.parameters(), lr=0.1), 2)
    sent.read()
    assert set(sent.scalars) == {"loss"}


def test_a_model_that_is_gone_leaves_no_hooks_behind(sent: testing.Captured) -> None:
    hooks = vars(sys.modules["torch.optim.optimizer"])["_global_optimizer_pre_hooks"]
    before = len(hooks)
    model = small()
    sdk.watch(model, every=1)
    assert len(hooks) == before + 1
    del model
    gc.collect()
    assert len(hooks) == before


def test_shared_weights_count_once(sent: testing.Captured) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(8, 8), nn.Linear(8, 8, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.embed(x.long().clamp(0, 7)).mean(1))
            return out

    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=1)
    norms = train(model, optimizer, 1)
    assert last(sent, "grad_norm") == pytest.approx(float(norms[0]))


def test_histograms_of_other_parameters_each_time(sent: testing.Captured) -> None:
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(6)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=1)
    train(model, optimizer, 2)
    sent.read()
    tags = [event.fields["tag"] for event in sent.events if event.kind == "media"]
    assert len(set(tags)) == 2 * 8
    assert {str(tag).split("/")[0] for tag in tags} == {"weights", "gradients"}


def test_the_first_layer_that_gave_nan_is_named(sent: testing.Captured) -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.log()

    norm = nn.BatchNorm1d(32)
    model = nn.Sequential(nn.Linear(8, 32), norm, nn.Sequential(Log(), nn.Dropout()), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=1000)
    reference = torch.get_rng_state()
    train(model, optimizer, 3)
    texts = sent.texts("watch/first_nonfinite")
    assert len(texts) == 1
    assert "At step 0" in texts[0]
    assert "`2.0` (Log) is the first to give NaN, from finite inputs" in texts[0]
    assert norm.num_batches_tracked == 3  # the pass that found it left no trace
    torch.set_rng_state(reference)
    for _ in range(3):
        torch.randn(16, 8)
        nn.functional.dropout(torch.zeros(16, 32))
    expected = torch.randn(3)
    torch.set_rng_state(reference)
    train(model, optimizer, 3)
    assert torch.equal(torch.randn(3), expected)


def test_a_backward_pass_that_breaks_is_told_from_a_forward_one(sent: testing.Captured) -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 0).sqrt() + x  # the slope of the root at 0 is infinite

    model = nn.Sequential(nn.Linear(8, 32), Root(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer)
    train(model, optimizer, 1)
    (text,) = sent.texts("watch/first_nonfinite")
    assert "every layer gives finite values" in text
    assert "in 2 of 4 parameters; nearest to the loss `0.bias`" in text


def test_a_batch_with_nan_is_the_batchs_fault(sent: testing.Captured) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer)
    train(model, optimizer, 9, nan_at=7)
    (text,) = sent.texts("watch/first_nonfinite")
    assert "At step 7" in text
    assert "from inputs that are not finite already" in text


def test_the_loss_scale_is_seen_while_every_step_is_skipped(sent: testing.Captured) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    sdk.watch(model, optimizer, every=1)
    for step in range(12):
        optimizer.zero_grad()
        loss = model(torch.randn(4, 8)).square().mean() * (float("inf") if 2 <= step < 8 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        sdk.log(loss=1.0)
    assert sent.scalar("grad_scale")[:9] == [(step, 2.0 ** (16 - max(0, min(step - 1, 6)))) for step in range(9)]
    assert last(sent, "skipped_steps") == 6
    assert [step for step, _ in sent.scalar("grad_norm")] == [0, 1, 8, 9, 10, 11]
    assert last(sent, "grad_norm") < 1e3  # unscaled


def test_compiled_models_have_no_graph_break_and_are_not_compiled_again(sent: testing.Captured) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = small()
    compiled: Any = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(compiled, optimizer, every=2)
    train(compiled, optimizer, 6)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert sent.scalar("grad_norm/0")
    assert not sent.scalar("dead_fraction")
    assert "watch:compiled" in sdk._guard.failures


def test_a_model_compiled_after_watch_has_no_graph_break(sent: testing.Captured) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=100)
    compiled: Any = torch.compile(model, backend="aot_eager")
    train(compiled, optimizer, 5)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert sent.scalar("grad_norm")


def by_module(model: nn.Module, most: float) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), most)


def by_name(model: nn.Module, most: float) -> None:
    clip_grad_norm_(list(model.parameters()), most)


def by_value(model: nn.Module, most: float) -> None:
    torch.nn.utils.clip_grad_value_(model.parameters(), most / 100)


def by_layer(model: nn.Module, most: float) -> None:
    for layer in model.children():
        clip_grad_norm_(list(layer.parameters()), most)


def twice(model: nn.Module, most: float) -> None:
    torch.nn.utils.clip_grad_value_(model.parameters(), most / 100)
    clip_grad_norm_(model.parameters(), most / 2)


def by_the_largest(model: nn.Module, most: float) -> None:
    clip_grad_norm_(model.parameters(), most / 100, norm_type=math.inf)


def norm_of(model: nn.Module) -> float:
    return float(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm())


@pytest.mark.parametrize("clip", [by_module, by_name, by_value, by_layer, twice, by_the_largest])
def test_norms_before_clipping_and_what_clipping_left(
    sent: testing.Captured, clip: Callable[[nn.Module, float], None]
) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=3)
    before: list[float] = []
    left: list[float] = []
    for _ in range(7):
        optimizer.zero_grad()
        for _ in range(2):
            model(torch.randn(16, 8)).square().mean().backward()
        before.append(norm_of(model))
        clip(model, 0.01)
        left.append(norm_of(model))
        optimizer.step()
        sdk.log(loss=1.0)
    assert dict(sent.scalar("grad_norm")) == pytest.approx({step: before[step] for step in (0, 3, 6)})
    assert dict(sent.scalar("grad_norm_clipped")) == pytest.approx({step: left[step] for step in (0, 3, 6)})
    assert left[6] < before[6] / 2
    assert math.hypot(*(last(sent, f"grad_norm/{layer}") for layer in ("0", "2"))) == pytest.approx(before[6])


def test_nothing_is_said_of_clipping_where_there_is_none(sent: testing.Captured) -> None:
    model, other = small(), small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=1)
    other(torch.randn(4, 8)).sum().backward()
    clip_grad_norm_(other.parameters(), 0.1)
    train(model, optimizer, 2)
    assert len(sent.scalar("grad_norm")) == 2
    assert not sent.scalar("grad_norm_clipped")


def test_what_clipping_saw_of_a_step_that_was_skipped_is_forgotten(sent: testing.Captured) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=1)
    for scale in (1e6, 1.0):
        optimizer.zero_grad()
        (model(torch.randn(4, 8)).square().mean() * scale).backward()
        norm = float(clip_grad_norm_(model.parameters(), 0.1))
        if norm < 1e3:
            optimizer.step()
    ((_, value),) = sent.scalar("grad_norm")
    assert value == pytest.approx(norm)


def test_two_optimizers_of_one_model_have_norms_before_clipping_of_their_own(sent: testing.Captured) -> None:
    model = small()
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2)]
    sdk.watch(model, every=2)
    norms: list[list[float]] = [[], []]
    for _ in range(5):
        model.zero_grad()
        model(torch.randn(4, 8)).sum().backward()
        for i, optimizer in enumerate(optimizers):
            norms[i].append(float(clip_grad_norm_(model[2 * i].parameters(), 0.1)))
            optimizer.step()
        sdk.log(loss=1.0)
    for i, prefix in enumerate(("", "optimizer1/")):
        assert [value for _, value in sent.scalar(f"{prefix}grad_norm")] == pytest.approx(norms[i][::2])
        assert last(sent, f"{prefix}grad_norm_clipped") == pytest.approx(0.1, rel=1e-3)


def test_clipping_changes_what_it_did_and_costs_nothing_between_samples(
    sent: testing.Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def count(tensors: list[Tensor]) -> list[Tensor]:
        measured.append(len(tensors))
        return norms_of(tensors)

    monkeypatch.setattr(_clipping, "norms_of", count)
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=10)
    for _ in range(21):
        optimizer.zero_grad()
        model(torch.randn(16, 8)).square().mean().backward()
        norm = norm_of(model)
        assert float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)) == pytest.approx(norm)
        assert norm_of(model) == pytest.approx(0.01, rel=1e-2)
        optimizer.step()
        sdk.log(loss=1.0)
    assert measured == [4, 4, 4]
    assert len(sent.scalar("grad_norm")) == 3


def test_a_compiled_step_that_clips_has_no_graph_break(sent: testing.Captured) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=1)

    @torch.compile(backend="aot_eager")  # type: ignore[untyped-decorator, unused-ignore]
    def clip() -> Tensor:
        return clip_grad_norm_(model.parameters(), 0.01)

    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(16, 8)).square().mean().backward()
        clip()
        optimizer.step()
    assert not torch._dynamo.utils.counters["graph_break"]
    assert sent.scalar("grad_norm")


def test_a_torch_that_clips_in_another_way_is_said_once(
    sent: testing.Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_clipping, "_wrapped", False)
    monkeypatch.setattr(_clipping, "SEAM", "no_such_function")
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=1)
    train(model, optimizer, 1)
    assert "watch:clipping" in sdk._guard.failures
    assert sent.scalar("grad_norm")


def test_models_partly_on_meta_and_in_channels_last(sent: testing.Captured) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.absent = nn.Conv2d(1, 4, 3), nn.Linear(4, 4, device="meta")

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x.reshape(2, 1, 8, 8)).relu()
            return out

    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=1)
    norms = train(model, optimizer, 2)
    assert last(sent, "grad_norm") == pytest.approx(float(norms[1]))
    assert last(sent, "update_ratio") > 0


def test_watching_twice_is_watching_once(sent: testing.Captured) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=7)
    sdk.watch(model, optimizer, every=1)
    train(model, optimizer, 3)
    assert len(sent.scalar("update_ratio")) <= 3


def test_a_session_that_has_ended_costs_the_model_nothing(sent: testing.Captured) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=1)
    sdk.finish()
    train(model, optimizer, 3)
    assert not sent.scalars


def test_the_interval_grows_until_the_cost_is_within_the_budget(
    sent: testing.Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pace, "BUDGET", 1e-6)
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sdk.watch(model, optimizer, every=1)
    train(model, optimizer, 64)
    sampled = [step for step, _ in sent.scalar("update_ratio")]
    assert sampled == [0, 1, 3, 7, 15, 31, 63]
    assert "watch:budget" in sdk._guard.failures
