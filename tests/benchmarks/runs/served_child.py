"""`agevlm-eval` as a script that a launcher can start."""

from agevlm.cli import eval_main

if __name__ == "__main__":
    eval_main()
