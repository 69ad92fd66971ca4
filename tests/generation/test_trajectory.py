import pytest
import torch
from tiny_pipelines import build

from pipeline.generation.backend import Sampling, fresh_model
from pipeline.generation.trajectory import first_steps

CAPTIONS = ["a cat", "two dogs", "a hat"]
SEEDS = [1, 2, 3]
KINDS = [("sd1", {}), ("sd2", {}), ("sdxl", {}), ("sd3", {}), ("pixart", {}), ("flux", {})]


def scored(model, how, steps, seeds=SEEDS, uncond=None):
    nothing = model.unconditioned(how.negative_prompt, guidance=how.guidance)
    return list(
        first_steps(
            model,
            model.conditions(CAPTIONS, guidance=how.guidance),
            nothing if uncond is None else uncond,
            model.noise(seeds),
            num_inference_steps=how.steps,
            guidance=model.guidance_weight(how),
            steps=steps,
        )
    )


@torch.inference_mode()
def by_hand(model, how, step_count):
    """The same, a forward a prediction and a step of the scheduler each."""
    scheduler, timesteps = model.start(how.steps)
    text = model.conditions(CAPTIONS, guidance=how.guidance)
    nothing = model.unconditioned(how.negative_prompt, guidance=how.guidance).expand(3)
    x_t = model.noise(SEEDS) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    found = []
    for timestep in timesteps[:step_count]:
        scaled = x_t
        if hasattr(scheduler, "scale_model_input"):
            scaled = scheduler.scale_model_input(x_t, timestep)
        times = timestep.expand(3)
        raws = [model.output(scaled, times, told) for told in (nothing, text)]
        found.append([model.predict_noise(scaled, times, told) for told in (nothing, text)] + raws)
        weight = model.guidance_weight(how)
        guided = raws[0] + weight * (raws[1] - raws[0])
        x_t = scheduler.step(guided, timestep, x_t).prev_sample
    return found


@pytest.mark.parametrize(("kind", "changes"), KINDS)
@pytest.mark.parametrize("guidance", [0.5, 4.0])
def test_steps_are_those_of_one_forward_a_prediction(tiny, kind, changes, guidance):
    model = tiny(kind, **changes)
    how = Sampling(steps=6, guidance=guidance, negative_prompt="blur")
    steps, expected = scored(model, how, 3), by_hand(model, how, 3)
    assert len(steps) == 3
    for step, (uncond, text, raw_uncond, raw_text) in zip(steps, expected, strict=True):
        for found, wanted in (
            (step.eps_uncond, uncond),
            (step.eps_text, text),
            (step.raw_uncond, raw_uncond),
            (step.raw_text, raw_text),
        ):
            assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))
    times = [step.timestep for step in steps]
    assert times == sorted(times, reverse=True)


def test_the_model_s_scheduler_is_left_alone(tiny):
    model = tiny("sd2")
    model.pipe.scheduler.set_timesteps(11)
    scored(model, Sampling(steps=4), 2)
    assert len(model.pipe.scheduler.timesteps) == 11


@pytest.mark.parametrize(
    ("seeds", "rows"), [([1, 1, 1], [4, 6]), ([1, 2, 1], [5, 6]), ([1, 2, 3], [6, 6])]
)
def test_captions_on_one_seed_share_the_unconditional_forward(tiny, seeds, rows, monkeypatch):
    model, how = tiny("sd2"), Sampling(steps=6, guidance=4.0)
    apart = scored(model, how, 2, seeds, uncond=model.unconditioned("").expand(3))
    asked, output = [], model.adapter.output
    monkeypatch.setattr(
        model.adapter, "output", lambda x, t, c: (asked.append(len(x)), output(x, t, c))[1]
    )
    shared = scored(model, how, 2, seeds)
    assert asked == rows
    for one, other in zip(shared, apart, strict=True):
        assert torch.allclose(one.eps_uncond, other.eps_uncond, atol=1e-5)
        assert torch.allclose(one.eps_text, other.eps_text, atol=1e-5)


@pytest.mark.parametrize("name", ["pndm", "heun"])
def test_a_time_that_is_visited_again_is_scored_once(tmp_path, name):
    model = fresh_model(build("sd1", tmp_path / "tiny"))
    model.use_scheduler(name)
    times = [step.timestep for step in scored(model, Sampling(steps=8), 4)]
    assert len(times) == len(set(times)) == 4
    assert times == sorted(times, reverse=True)


def test_a_flow_s_captions_differ_in_velocity_from_the_first_step_on(tiny):
    first, second = scored(tiny("sd3"), Sampling(steps=6), 2)
    assert torch.equal(first.eps_text, first.eps_uncond)
    assert (first.raw_text - first.raw_uncond).abs().max() > 1e-4
    gap = (second.eps_text - second.eps_uncond).flatten(1).norm(dim=1)
    sigma = tiny("sd3").start(6)[1][1] / 1000
    expected = (second.raw_text - second.raw_uncond).flatten(1).norm(dim=1) * (1 - sigma)
    assert torch.allclose(gap, expected, rtol=1e-3)
