"""`python -m medmllm`: the command, where it is not on the path.

arguments -> medmllm.cli
"""

from medmllm.cli import app

app(prog_name="medmllm")
