"""Public names are a promise: this list grows, and shrinks only with a major version."""

import inspect

import sencache_core

NAMES = {
    "FAMILIES",
    "POLICIES",
    "REUSE_RULES",
    "Branch",
    "CacheConfig",
    "Calibration",
    "CfgCache",
    "Family",
    "Fitted",
    "Guards",
    "Hold",
    "Interval",
    "Linear",
    "Message",
    "Moments",
    "Off",
    "Planned",
    "Policy",
    "Profile",
    "ProfileError",
    "ProfileHeader",
    "Quadratic",
    "Recorder",
    "ReuseRule",
    "RunReport",
    "Runner",
    "Schedule",
    "SenCache",
    "Session",
    "StepRecord",
    "TwoBands",
    "flow_sigmas",
}


def test_public_names():
    assert set(sencache_core.__all__) == NAMES
    assert sorted(sencache_core.__all__) == sorted(set(sencache_core.__all__))
    assert all(hasattr(sencache_core, name) for name in NAMES)


def test_public_names_are_documented():
    for name in NAMES:
        value = getattr(sencache_core, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name


def test_registries_and_their_order():
    """Saved workflows hold these words."""
    assert list(sencache_core.POLICIES) == [
        "planned",
        "sencache",
        "interval",
        "teacache",
        "easycache",
        "magcache",
        "seacache",
        "tafc",
        "ra_cfgcache",
        "bag",
        "cfg_cache",
        "middle_blocks",
        "profilingdit",
        "fastercache",
        "fbcache",
        "dbcache",
        "dicache",
        "delta_dit",
        "deepcache",
        "smoothcache",
        "block_caching",
        "learning_to_cache",
        "goc",
        "eoc",
        "pab",
        "off",
    ]
    assert list(sencache_core.REUSE_RULES) == [
        *("fitted", "hold", "linear", "quadratic"),
        *("taylorseer", "hicache", "spectrum", "meancache"),
    ]
    assert list(sencache_core.FAMILIES) == ["wan", "ltx", "ltx2", "cogvideox"]


def test_import_needs_no_host():
    """``import sencache_core`` must work where only torch, numpy and safetensors are."""
    import subprocess
    import sys
    from pathlib import Path

    code = "import sys, sencache_core; print(*{m.split('.')[0] for m in sys.modules})"
    root = Path(sencache_core.__file__).resolve().parents[1]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    loaded = set(out.stdout.split())
    assert "sencache_core" in loaded
    assert not loaded & {"diffusers", "transformers", "comfy", "kornia", "matplotlib"}
