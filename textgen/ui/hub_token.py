"""The field for a token of the Hugging Face Hub."""

from __future__ import annotations

import gradio as gr


def token_field(i18n: gr.I18n, info: str, elem_id: str) -> gr.Textbox:
    """Built in place, not to be read by bystanders. `info` is the key of what is told of it.

    Its value goes from the browser to the client of the Hub; whoever takes it empties the field at once.
    """
    return gr.Textbox(
        label=i18n("hub_token"), info=i18n(info), type="password", max_lines=1, elem_id=elem_id, min_width=170
    )
