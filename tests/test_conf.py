"""Every file of conf/ composes, and says only what the thing that it names understands."""

import inspect
from pathlib import Path

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tasks import run_folder, sweep
from zoo.load import ConfigError, build, fits, keywords, locate

CONF = ROOT / "conf"
NEEDED = {
    "data/text": ["data.path=x"],
    "data/hub": ["data.name=x"],
    "data/classification": ["data.name=x"],
    "data/dated": ["data.path=x"],
    "data/dated_hub": ["data.name=x"],
    "experiment/time_vectors_task": ["task.base=x"],
    "experiment/time_vectors_t5": ["data.path=x", "data.template='x{y}'"],
    "tokenizer/hf": ["tokenizer.name=x"],
    # What is pretrained is read when composed, and this needs no network.
    "experiment/picl_paper": ["pretrained=null"],
    "experiment/myopia_pythia": ["pretrained=null"],
}
FILES = sorted(
    str(path.relative_to(CONF).with_suffix(""))
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and path.name != "decoder.yaml"
)


def composed(*overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    run_folder.register_resolvers()
    sweep.register_resolver()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", list(overrides), return_hydra_config=True)
    OmegaConf.set_readonly(cfg.hydra, False)
    cfg.hydra.runtime.output_dir = "somewhere"
    HydraConfig.instance().set_config(cfg)
    return cfg


@pytest.mark.parametrize("file", FILES)
def test_file_composes_and_its_keys_fit_the_signatures(file):
    group, _, choice = file.rpartition("/")
    config = run_folder.plain(composed(f"{group}={choice}", *NEEDED.get(file, [])))
    config["model"]["vocab_size"] = 8  # the run takes it from the tokenizer
    assert not _missing(config), "left open: " + ", ".join(_missing(config))
    for key, node in _nodes(config):
        target = locate(node["_target_"], key=key)
        known = keywords(target)
        for name, value in node.items():
            if name.startswith("_"):
                continue
            assert known is None or name in known, f"{key}.{name}: not an argument"
            hint = known[name].annotation if known else inspect.Parameter.empty
            if not (isinstance(value, dict) and "_target_" in value):
                open_to_us = key == "trainer" and name == "precision"
                assert open_to_us or fits(value, hint), f"{key}.{name}={value!r} is no {hint}"


@pytest.mark.parametrize(
    "model", [p.stem for p in (CONF / "model").glob("*.yaml") if p.stem != "decoder"]
)
@pytest.mark.parametrize("mask", [p.stem for p in (CONF / "mask").glob("*.yaml")])
def test_every_model_builds_with_every_mask(model, mask):
    config = run_folder.plain(composed(f"model={model}", f"mask={mask}", "size=nano"))
    config["model"]["vocab_size"] = 8
    assert sum(p.numel() for p in build(config["model"], key="model").parameters()) > 0


def test_sizes_are_the_published_shapes():
    from zoo.flops import parameters_by_part

    config = run_folder.plain(composed("model=gpt2", "size=small"))
    assert (config["model"]["num_layers"], config["model"]["width"]) == (12, 768)
    config["model"]["vocab_size"] = 50257
    import torch

    with torch.device("meta"):
        parts = parameters_by_part(build(config["model"], key="model"))
    assert round(sum(parts.values()) / 1e6) == 124
    medium = run_folder.plain(composed("size=medium"))["model"]
    assert (medium["num_layers"], medium["width"]) == (24, 1024)


def test_build_refuses_by_name():
    cases = {
        "part.sise: unknown key": {"_target_": "zoo.norms.RMSNorm", "sise": 3},
        "part.eps: must be float": {"_target_": "zoo.norms.RMSNorm", "eps": "small", "width": 2},
        "part._target_: cannot import": {"_target_": "zoo.norms.NoNorm"},
    }
    for line, node in cases.items():
        with pytest.raises(ConfigError, match=line.replace(".", r"\.")):
            build(node, key="part")


def _nodes(config, key=""):
    if isinstance(config, dict):
        if "_target_" in config:
            yield key, config
        for name, child in config.items():
            yield from _nodes(child, f"{key}.{name}".lstrip("."))
    elif isinstance(config, list):
        for i, child in enumerate(config):
            yield from _nodes(child, f"{key}[{i}]")


def _missing(config, key="") -> list[str]:
    if isinstance(config, dict):
        return [m for n, c in config.items() for m in _missing(c, f"{key}.{n}".lstrip("."))]
    return [key] if config == "???" else []


def test_every_conf_folder_is_a_choice_of_the_program():
    """A folder that train.yaml does not list could not be chosen."""
    listed = {
        key for d in OmegaConf.load(CONF / "train.yaml").defaults if d != "_self_" for key in d
    }
    assert {path.name for path in CONF.iterdir() if Path(path).is_dir()} == listed
