"""Typed configuration: fields, rules, YAML and command line. Loads no torch."""

from lrd_peft.config.identity import PHASES, Phase, differences, fingerprint
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
