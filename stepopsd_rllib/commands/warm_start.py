"""`stepopsd warm-start`: a model learns the form of an environment's turns from expert episodes.

A pretrained model that never writes the tags of an environment earns nothing, and so learns nothing
by reinforcement. Here it clones expert turns of training tasks, all its weights or adapters, and
what comes out is a model folder like any other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from stepopsd_rllib.commands.training_run import say
from stepopsd_rllib.environments import make_text_env, text_env_class
from stepopsd_rllib.models.loading import load_causal_lm
from stepopsd_rllib.models.lora import LoRASettings, add_adapters, check_targets, merged_weights
from stepopsd_rllib.models.model_folder import model_folder
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.tiny.alfworld_demonstrations import DemonstrationSettings
from stepopsd_rllib.tiny.batched_play import play
from stepopsd_rllib.tiny.demonstrations import DEMONSTRATIONS, SearchDemonstrationSettings
from stepopsd_rllib.tiny.tiny import chat_row
from stepopsd_rllib.tiny.tiny_success import summary
from stepopsd_rllib.tiny.warm_start import (
    ChatRow,
    CloningSettings,
    adamw_alone,
    clone,
    mean_response_loss,
)

RECORD_FILE = "warm_start.json"
HELD_OUT_SHARE = 0.1  # of the episodes, at least one
PROGRESS_LINES = 12
LEARNING_RATES = {"full": 3.0e-5, "lora": 5.0e-4}
BATCH_TOKENS = 1024  # small, so that a CPU's memory holds the activations


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmStart:
    """What is cloned, how, and how it is measured.

    Attributes:
        model: A model as `config.model` takes it.
        env: Id of the environment.
        env_config: Arguments of the environment, as the run that follows will have them.
        episodes: Expert episodes of training tasks.
        epochs: Passes over them.
        lora_rank: Rank of adapters, merged at the end; 0 trains all weights.
        learning_rate: Peak; None takes the usual one.
        tasks: Tasks on which success is measured, greedily, before and after; 0 measures none.
        max_response_tokens: Longest response while measuring.
        seed: Seed of tasks, expert and batch order.
    """

    model: str
    env: str
    env_config: dict[str, Any]
    episodes: int = 200
    epochs: int = 1
    lora_rank: int = 0
    learning_rate: float | None = None
    tasks: int = 16
    max_response_tokens: int = 32
    seed: int = 0


def warm_start(settings: WarmStart, output: str, *, report: Callable[[str], None] = say) -> Path:
    """Clones expert turns into a model and writes it to a new folder.

    Raises:
        ValueError: No such model or environment, no expert for it, or the folder exists.
    """
    folder = Path(output).expanduser().resolve()
    if folder.exists():
        raise ValueError(f"{folder} exists already. Name a folder that does not.")
    if settings.episodes < 2:
        raise ValueError(f"--episodes {settings.episodes}: give at least 2, one to hold out.")
    started = time.perf_counter()
    expert = _expert_of(settings.env)
    path = model_folder(settings.model, text_env_class(settings.env, settings.env_config))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, lora = _loaded(path, settings, device)
    chat = ChatFormat(_tokenizer(path))
    rows, held_out = _rows(expert, settings, chat)
    report(
        f"{len(rows)} expert episodes of {sum(len(r.token_ids) for r in rows)} tokens to clone, "
        f"{len(held_out)} held out; {_size(model)} on the {device.upper()}"
    )
    measured: dict[str, Any] = {"held_out_loss": {}, "success": {}}
    _measure("before", model, chat, settings, held_out, measured, report)
    cloning = CloningSettings(
        epochs=settings.epochs,
        tokens_per_batch=BATCH_TOKENS,
        learning_rate=settings.learning_rate or LEARNING_RATES["lora" if lora else "full"],
        warmup_updates=min(10, max(1, len(rows) // 10)),
        observation_weight=0.0,
        weight_decay=0.0,
    )
    done = clone(
        model,
        rows,
        cloning,
        seed=settings.seed,
        report_progress=_progress(report),
        make_optimizers=adamw_alone,
        autocast_dtype=_arithmetic(device),
    )
    _measure("after", model, chat, settings, held_out, measured, report)
    _write(model, lora, path, folder)
    record = {"warm_start": asdict(settings), "cloning": asdict(done), **measured}
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n")
    report(f"model       {folder} ({time.perf_counter() - started:.0f} s)")
    return folder


def _expert_of(env: str) -> str:
    name = {"ALFWorld": "alfworld", "SearchQA": "search_qa"}.get(
        env.rpartition("/")[2].partition("-v")[0]
    )
    if name not in DEMONSTRATIONS:
        raise ValueError(
            f"ENV={env!r}: there is no expert for it, only for stepopsd/ALFWorld-v0 and "
            "stepopsd/SearchQA-v0."
        )
    return str(name)


def _loaded(
    path: str, settings: WarmStart, device: str
) -> tuple[PreTrainedModel, LoRASettings | None]:
    lora = LoRASettings.of({"rank": settings.lora_rank, "alpha": 2 * settings.lora_rank})
    if not lora.rank:
        return load_causal_lm(path, device=device), None
    from transformers import AutoConfig

    check_targets(lora, AutoConfig.from_pretrained(path))
    model = load_causal_lm(path, device=device)
    add_adapters(model, lora, with_teacher=False)
    return model, lora


def _tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def _rows(
    expert: str, settings: WarmStart, chat: ChatFormat
) -> tuple[list[ChatRow], list[ChatRow]]:
    """Episodes to clone and episodes held out."""
    how: Any
    if expert == "alfworld":
        turns = int(settings.env_config.get("max_turns", 50))
        how = DemonstrationSettings(
            episodes=settings.episodes, max_turns=turns, noise=0.05, repeats=0.03
        )
    else:
        how = SearchDemonstrationSettings(episodes=settings.episodes, noise=0.05)
    shown = DEMONSTRATIONS[expert](settings.env_config, how, seed=settings.seed)
    if len(shown) < 2:
        raise ValueError(
            f"--episodes {settings.episodes}: the expert won {len(shown)} of them. Raise it, or "
            "max_turns of the environment."
        )
    rows = [chat_row(demonstration, chat) for demonstration in shown]
    count = max(1, int(HELD_OUT_SHARE * len(rows)))
    return rows[count:], rows[:count]


def _measure(
    when: str,
    model: PreTrainedModel,
    chat: ChatFormat,
    settings: WarmStart,
    held_out: Sequence[ChatRow],
    measured: dict[str, Any],
    report: Callable[[str], None],
) -> None:
    loss = mean_response_loss(model, held_out)
    measured["held_out_loss"][when] = round(loss, 4)
    text = f"{when:<7} held-out loss {loss:.3f} nats per response token"
    if settings.tasks:
        env = make_text_env(settings.env, settings.env_config)
        tasks = env.tasks("valid_unseen")
        step = max(1, len(tasks) // settings.tasks)
        chosen = tasks[::step][: settings.tasks]
        envs = [env, *(make_text_env(settings.env, settings.env_config) for _ in chosen[1:])]
        played = summary(
            play(
                model,
                chat,
                envs,
                chosen,
                temperature=0.0,
                max_response_tokens=settings.max_response_tokens,
                seed=settings.seed,
            )
        )
        measured["success"][when] = played
        text += (
            f"; {played['success_rate']:.1%} of {played['num_episodes']} unseen tasks, "
            f"{played['valid_action_ratio']:.1%} of the turns in the right form"
        )
    report(text)


def _arithmetic(device: str) -> torch.dtype | None:
    """Bfloat16 on GPUs and on CPUs with matrix units for it, where it takes 0.4 of the time."""
    if device == "cpu" and not torch.cpu.get_capabilities().get("amx_bf16", False):
        return None
    return torch.bfloat16


def _write(model: PreTrainedModel, lora: LoRASettings | None, source: str, folder: Path) -> None:
    if lora is not None:
        weights = merged_weights(model)
        model = load_causal_lm(source)
        model.load_state_dict({name: tensor.cpu() for name, tensor in weights.items()})
    model.save_pretrained(folder)
    _tokenizer(source).save_pretrained(folder)


def _size(model: PreTrainedModel) -> str:
    trained = sum(w.numel() for w in model.parameters() if w.requires_grad)
    return f"{trained / 1e6:.1f} of {model.num_parameters() / 1e6:.1f} million parameters trained"


def _progress(report: Callable[[str], None]) -> Callable[[int, int, float], None]:
    started = time.perf_counter()

    def show(done: int, updates: int, loss: float) -> None:
        if done % max(1, updates // PROGRESS_LINES) == 0:
            seconds = time.perf_counter() - started
            left = seconds / done * (updates - done)
            report(f"update {done}/{updates}: {loss:.3f} nats, {seconds:.0f} s, {left:.0f} s left")

    return show
