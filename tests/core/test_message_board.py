"""What processes say to each other on the host."""

import json
import os
import socket
import subprocess
import sys

SCRIPT = """
import json, sys, jax
from wallwm_jax.core.errors import RunError
from wallwm_jax.core.message_board import message_board
number = int(sys.argv[2])
jax.distributed.initialize(sys.argv[1], 3, number)
board = message_board()
said = [board.decide("a/b", f"{number} {time}", "+".join) for time in range(3)]
board.write(f"x/{number}", str(number))
texts = board.collect("x") if number == 0 else []
board.decide("door", "", "".join)
left = board.read("x")
try:
    board.wait("nobody/says/this", 0.2)
except RunError as error:
    print(json.dumps([said, texts, left, board.neighbours(), str(error)]), flush=True)
board.decide("end", "", "".join)
"""


def test_texts_are_brought_collected_and_decided():
    """By three processes of one machine: decisions of the same name in order, each made of all texts and the same for
    all; what is collected is taken away; a text that nobody leaves is missed by name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    pipes = {"stdout": subprocess.PIPE, "text": True, "env": os.environ | {"JAX_PLATFORMS": "cpu"}}
    commands = [[sys.executable, "-c", SCRIPT, address, str(number)] for number in range(3)]
    processes = [subprocess.Popen(command, **pipes) for command in commands]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    said = [f"0 {time}+1 {time}+2 {time}" for time in range(3)]
    missed = "no process has said 'nobody/says/this' within 0.2 s"
    for number, output in enumerate(outputs):
        assert json.loads(output) == [said, ["0", "1", "2"] if number == 0 else [], {}, [0, 1, 2], missed]
