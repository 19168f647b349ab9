"""``textgym pipeline``: check all settings, run the stages that are not complete, and write one report of all."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from textgym import runs
from textgym.commands.configs.hyperparameters import as_begun_with, hyperparameters_class
from textgym.commands.configs.pipeline import PipelineConfig
from textgym.commands.configs.reward_model import RewardModelConfig
from textgym.commands.configs.sft import SFTConfig
from textgym.commands.pipeline.check import check_materials, check_settings
from textgym.commands.pipeline.labels import LabelsConfig, run_labels
from textgym.commands.pipeline.ledger import Ledger
from textgym.commands.pipeline.plan import Stage, plan
from textgym.commands.pipeline.summary import pipeline_sample_pairs, stage_line, stage_table
from textgym.commands.reward_model import run_reward_model
from textgym.commands.sft import run_sft
from textgym.commands.train import run_train
from textgym.files import read_json
from textgym.reports.pipeline import write_pipeline_report
from textgym.reports.pipeline_stages import TO_LABEL


def pipeline(config: PipelineConfig) -> Path | None:
    """Run all stages; return the report's path, or None where people have ranks to fill in first.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: something does not fit; no stage has begun then, and no file
            was changed.
    """
    started = time.monotonic()
    config = begun(config)
    check_settings(config)
    stages = plan(config)
    about = {"command": "pipeline", **runs.settings_of(config)}
    with runs.held(config.out, about, config.overwrite, config.resume) as resumed:
        if resumed:
            _require_pipeline(config.out)
        ledger = Ledger(config.out, stages, resumed)
        ledger.verify(stages)
        check_materials(config)
        runs.begin_run(config.out, about, config.overwrite and not resumed)
        ledger.save()
        for number, stage in enumerate(stages, start=1):
            if not _carried_out(stage, ledger, f"{number}/{len(stages)} {stage.name}"):
                print(_to_do(stage))
                return None
            runs.first_result(config.out)
    report = write_pipeline_report(config.out)
    print(f"\nheld-out prompts, mean ± 95 % interval\n{stage_table(stages, about)}")
    print(f"\n{pipeline_sample_pairs(stages, 3)}\n")
    print(f"{time.monotonic() - started:.0f} s; report: {report}")
    return report


def begun(config: PipelineConfig) -> PipelineConfig:
    """Return the settings of a pipeline; a resumed one keeps its own where the command line leaves the defaults."""
    kept, part = runs.begun_with(config), config.train
    if kept is None:
        return config
    trained_with = {name.removeprefix("train."): value for name, value in kept.items()}
    own = as_begun_with(part.hyperparameters, hyperparameters_class(part.algorithm)(), trained_with)
    return replace(runs.as_begun(config), train=replace(part, hyperparameters=own))


def _require_pipeline(out: Path) -> None:
    command = read_json(out / "config.json")["command"]
    if command != "pipeline":
        raise ValueError(f"--resume: out={str(out)!r} is a run of textgym {command}; choose another directory")


def _carried_out(stage: Stage, ledger: Ledger, title: str) -> bool:
    """Run a stage, or the rest of it; return False if people have to fill in a file first."""
    if ledger.is_complete(stage):
        print(f"{title}: complete; {stage_line(stage)}")
        return True
    print(f"{title} …")
    started = time.monotonic()
    ledger.begin(stage)
    if not _run(stage, resume=stage.config.out.exists()):
        return False
    ledger.complete(stage)
    print(f"{title}: {stage_line(stage)} ({time.monotonic() - started:.0f} s)")
    return True


def _run(stage: Stage, resume: bool) -> bool:
    config = stage.config
    if isinstance(config, LabelsConfig):
        return run_labels(config, resume)
    if isinstance(config, SFTConfig):
        run_sft(replace(config, resume=resume))
    elif isinstance(config, RewardModelConfig):
        run_reward_model(replace(config, resume=resume))
    else:
        run_train(replace(config, resume=resume))
    return True


def _to_do(stage: Stage) -> str:
    path = stage.config.out / TO_LABEL
    if not path.exists():
        return "\nThe page was closed before enough was answered. Give the same command with --resume to open it again."
    return (
        f"\nNow it is people's turn: in every row of {path}\nreplace null in 'ranks' by one number per completion: 0 "
        "for the best, equal numbers for ties.\nThen give the same command with --resume."
    )
