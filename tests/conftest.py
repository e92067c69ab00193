"""What every test gets: a home folder of its own, and torch kept to one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import hypothesis
import pytest

from backend.settings import Settings, from_environment

# How long an example takes says how busy the machine is, and nothing about the code.
SLOW = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("studio", hypothesis.settings(), **SLOW)
hypothesis.settings.load_profile("studio")


@pytest.fixture
def settings(tmp_path) -> Settings:
    """Settings over an empty home folder, on the CPU with one thread."""
    return from_environment({"STUDIO_HOME": str(tmp_path / "home"), "STUDIO_THREADS": "1", "STUDIO_DEVICE": "cpu"})
