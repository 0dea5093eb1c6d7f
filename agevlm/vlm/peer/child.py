"""The process that runs a wrapper: `python -m agevlm.vlm.peer.child PARENT DESCRIPTOR`.

Down the pipe come ("load", name, arguments, offered), then any number of ("ask", images, asks); up go ("ready", facts),
("said", answers), or ("failed", message).
"""

from __future__ import annotations

import os
import sys
import traceback
from multiprocessing.connection import Connection

from agevlm.vlm.peer.children import end_with
from agevlm.vlm.peer.wrapper import Wrapper


def main() -> None:
    """Serve until the pipe closes."""
    end_with(int(sys.argv[1]))
    # Not for the programs that a wrapper starts: one that outlived this process would hold the pipe open.
    os.set_inheritable(int(sys.argv[2]), False)
    pipe: Connection = Connection(int(sys.argv[2]))
    _, name, arguments, offered = pipe.recv()
    try:
        wrapper = Wrapper.load(name, arguments, offered)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        pipe.send(("failed", f"{type(error).__name__}: {str(error).strip()[:1000]}"))
        return
    pipe.send(("ready", wrapper.facts))
    while True:
        try:
            _, images, asks = pipe.recv()
        except EOFError:
            break
        pipe.send(("said", wrapper.ask(images, asks)))
    sys.stdout.flush()
    # Engines' threads and their exit handlers may hang; nothing is left to save.
    os._exit(0)


if __name__ == "__main__":
    main()
