"""Runs every benchmark in turn, each in a process of its own."""

import pkgutil
import subprocess
import sys

import benchmarks

names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_")]
codes = []
for name in names:
    print(f"== benchmarks.{name}", flush=True)
    codes.append(subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode)
sys.exit(max(codes, default=0))
