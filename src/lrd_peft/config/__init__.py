"""Configuration of a run: typed groups, their rules, YAML files and flags."""

from lrd_peft.config.fields import PHASES, Phase
from lrd_peft.config.identity import differences, fingerprint
from lrd_peft.config.load import Request, dump_yaml, load_config, parse_request
from lrd_peft.config.schema import RunConfig

__all__ = [
    "PHASES",
    "Phase",
    "Request",
    "RunConfig",
    "differences",
    "dump_yaml",
    "fingerprint",
    "load_config",
    "parse_request",
]
