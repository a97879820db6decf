"""`python -m medmllm`: the command, as torchrun starts it.

arguments -> medmllm.cli
"""

from medmllm.cli import app

app(prog_name="medmllm")
