"""The tests mirror medmllm/ one to one; what they share is imported as `from tests.factories import ...`."""
