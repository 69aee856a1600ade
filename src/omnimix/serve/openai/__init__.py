"""The API that OpenAI's clients speak, with regions in it both ways."""
