"""Settings from TOML and back; what they refuse."""

from dataclasses import replace
from pathlib import Path

import pytest

from convexrecon.convex.gate_growth import GrowthSettings
from convexrecon.convex.program import ProgramSettings
from convexrecon.errors import InputError
from convexrecon.training.config import RunSettings, dump_settings, load_settings
from convexrecon.training.convex_settings import ConvexSettings


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_settings_survive_the_round_trip(tmp_path: Path) -> None:
    settings = replace(
        RunSettings(seed=3),
        convex=ConvexSettings(program=ProgramSettings(penalty="nuclear", beta=0.5), lam=0.1),
    )
    assert load_settings(written(tmp_path, dump_settings(settings))) == settings
    assert load_settings(written(tmp_path, dump_settings(RunSettings()))) == RunSettings()
    grown = ConvexSettings(grow=GrowthSettings(rule="violation", per_round=2), gates="mixed", whitened=0.5)
    assert load_settings(written(tmp_path, dump_settings(RunSettings(convex=grown)))) == RunSettings(convex=grown)
    wide = replace(RunSettings(), model=replace(RunSettings().model, inputs=("image", "zero_filled")))
    assert load_settings(written(tmp_path, dump_settings(wide))) == wide


def test_what_the_file_leaves_out_keeps_its_default(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, "[model]\nblocks = 3\n[convex]\noffset_scale = 1\n"))
    assert settings.model.blocks == 3
    assert settings.convex.offset_scale == 1.0
    assert settings.mask == RunSettings().mask


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blcoks = 3", "unknown key 'blcoks'; expected one of method, seed"),
        ("[model]\nblocks = 'three'", "blocks: expected int, found 'three'"),
        ("[model]\nblocks = true", "blocks: expected int"),
        ("[model]\nkernel = 4", "odd kernel"),
        ("[model]\ninputs = ['zero_filled']", "'image' first"),
        ("[model]\ninputs = 'image'", "expected a list of strings"),
        ("model = 5", "model: expected a table"),
        (
            "method = 'magic'",
            "expected one of convex, end_to_end, checkpointing, gleam, reversible, layerwise, found",
        ),
        ("[convex]\npixel_fraction = 0.0", "pixel_fraction: expected in"),
        ("[convex]\nloss_lam = 0.0", "loss_lam: expected a positive number, found 0.0"),
        ("[convex]\nloss = 'output'", "loss: expected one of image, consistent, self_supervised, found 'output'"),
        ("[model]\nstacking = 'features'\n[convex]\nloss = 'consistent'", "expects model.stacking = 'cascade'"),
        ("[model]\nconsistency = 'none'\n[convex]\nloss = 'consistent'", "found 'cascade' and 'none'"),
        ("[convex]\ngates = 'lucky'", "gates: expected one of gaussian, zero_mean, patches"),
        ("[convex]\ngates = 'trained'", "gates = 'trained' and gates_run = a run folder go together"),
        ("[convex]\ngates_run = 'run'", "found 'gaussian' and 'run'"),
        ("[convex]\ngates = 'trained'\ngates_run = 'a'\n[convex.grow]\nrule = 'explained'", "are not grown"),
        ("[convex.grow]\nrule = 'greedy'", "rule: expected one of none, violation, explained, found 'greedy'"),
        ("[convex.grow]\ncandidates = 0", "grow.candidates: expected at least 1, found 0"),
        ("[convex.grow]\nrounds = 3", "unknown key 'rounds'; expected one of rule, per_round"),
        (
            "[model]\nstacking = 'features'\n[convex]\nloss = 'self_supervised'",
            "loss = 'self_supervised' expects model",
        ),
        ("[model]\nconsistency = 'none'\n[convex]\nloss = 'self_supervised'", "found 'cascade' and 'none'"),
        ("[convex]\nloss = 'self_supervised'\n[convex.grow]\nrule = 'explained'", "gates are grown on targets"),
        ("[convex]\nbeta_from = 'validation'\nloss = 'consistent'", "beta_from: 'validation' expects loss = 'image'"),
        ("[convex]\nbeta_from = 'validation'\n[convex.program]\nbeta = 0.1", "and no program.beta, found"),
        ("[model]\nstacking = 'features'\n[convex.grow]\nrule = 'explained'", "gates of stacked features are drawn"),
        ("[convex]\nheld_out = 1.0", "held_out: expected in (0, 1), found 1.0"),
        ("[convex.program]\nbeta_ratio = -1.0", "beta_ratio: expected a positive"),
        ("[descent]\nepochs = 0", "epochs >= 1"),
        ("seed = [", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=r"config\.toml") as refused:
        load_settings(written(tmp_path, text))
    assert message in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_settings(tmp_path / "none.toml")
