"""Run commands one after the other, and report what each of them cost.

measure.Launcher starts this as a process of its own, without this project's modules: Linux counts
the peak memory of a process from before its exec(2), so a command can't seem to use less memory
than the process that starts it. This one has 9 MB.

Standard input has a command in each line, as JSON: its words, and a file for its output. Standard
output gets a line for each: wall seconds, CPU seconds (with those of the processes that it waited
for), the largest peak of memory of these processes in bytes, and the exit status.
"""

import json
import os
import sys
import time

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def main() -> None:
    """Run the commands."""
    for line in sys.stdin:
        command, output = json.loads(line)
        began = time.perf_counter()
        pid = os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, output, FLAGS, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
        _, status, usage = os.wait4(pid, 0)
        wall = time.perf_counter() - began
        cpu = usage.ru_utime + usage.ru_stime
        cost = [wall, cpu, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)]
        sys.stdout.write(json.dumps(cost) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
