"""Lines and durations a person can read, and a screen that stays ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.terminal import duration

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (8.25, "8.2 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_libraries_print_goes_to_the_log_and_our_lines_to_the_screen(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    code = (
        "import os, pathlib\n"
        "from cluster.terminal import quiet_terminal\n"
        f"with quiet_terminal(pathlib.Path({str(log)!r})) as screen:\n"
        "    os.system('echo from a child'); print('from python'); os.write(2, b'from C\\n')\n"
        "    screen.line('ours [bold] literally')\n"
        "    with screen.stage('clean', 1, 2) as display:\n"
        "        display.note('resuming'); display.update(1, 2, 'shards', {})\n"
        "print('afterwards')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "ours [bold] literally",
        "[1/2] clean ...",
        "[1/2] clean: resuming",
        "afterwards",
    ]
    assert done.stderr == ""
    assert sorted(log.read_text().split("\n")) == sorted(["from a child", "from python", "from C", ""])


def test_a_terminal_gets_a_bar_with_rate_and_remaining_time(tmp_path: Path) -> None:
    import pty

    code = (
        "import pathlib, time\n"
        "from cluster.terminal import quiet_terminal\n"
        f"with quiet_terminal(pathlib.Path({str(tmp_path / 'log')!r})) as screen:\n"
        "    with screen.stage('pretrain', 5, 11) as display:\n"
        "        for step in range(6):\n"
        "            display.update(step, 10, 'steps', {'loss': 5.25}); time.sleep(0.1)\n"
    )
    controller, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": "140", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=terminal, stderr=terminal, env=environment
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            chunk = os.read(controller, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(controller)
    assert process.wait() == 0
    text = shown.decode()
    for part in ("[5/11] pretrain", "5/10 steps", "steps/s", "left", "loss 5.25"):
        assert part in text
