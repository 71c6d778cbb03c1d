"""`gatepost top` on a terminal of its own: it draws, and Ctrl-C leaves the terminal as it was."""

import os
import pty
import select
import sys

ENTER, LEAVE = b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l"
LIMIT = 60

binary, config, wanted = sys.argv[1:]
child, terminal = pty.fork()
if child == 0:
    os.execv(binary, ["gatepost", "top", "--interval", "1", "--config", config])
drawn = b""


def read():
    global drawn
    if not select.select([terminal], [], [], LIMIT)[0]:
        sys.exit(f"nothing for {LIMIT} s after {drawn!r}")
    try:
        more = os.read(terminal, 65536)
    except OSError:  # The other side is closed.
        return False
    drawn += more
    return bool(more)


while wanted.encode() not in drawn or drawn.count(b"\x1b[H") < 2:
    if not read():
        sys.exit(f"it ended with {drawn!r}")
os.write(terminal, b"\x03")
while read():
    pass
status = os.waitpid(child, 0)[1]
assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, status
assert drawn.startswith(ENTER), drawn[:100]
assert drawn.endswith(LEAVE), drawn[-100:]
