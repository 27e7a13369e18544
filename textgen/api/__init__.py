"""HTTP routes beside the page: completions as OpenAI's clients ask for them, and what a host's watchers look at."""
