"""The look: one accent, quiet greys, fonts of the system; light and dark. Spacing and cards are in web/studio.css."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import colors, sizes

ACCENT = colors.Color(
    c50="#eef7f8", c100="#d5ecef", c200="#aedae0", c300="#7cc2cc", c400="#46a3b0", c500="#1f8493",
    c600="#0b6270", c700="#0a5461", c800="#0a434d", c900="#09343c", c950="#05222a", name="studio",
)  # fmt: skip
GREY = colors.Color(
    c50="#f7f8fa", c100="#eef0f3", c200="#e1e5ea", c300="#c9cfd8", c400="#98a2b0", c500="#5b6675",
    c600="#465160", c700="#323b48", c800="#20262f", c900="#171c23", c950="#0f1318", name="studio-grey",
)  # fmt: skip
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Noto Sans", "DejaVu Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "DejaVu Sans Mono", "monospace")


def theme() -> gr.themes.Base:
    """The Gradio theme of the studio."""
    return gr.themes.Base(
        primary_hue=ACCENT,
        secondary_hue=ACCENT,
        neutral_hue=GREY,
        text_size=sizes.text_md,
        spacing_size=sizes.spacing_md,
        radius_size=sizes.radius_md,
        font=FONTS,
        font_mono=MONO,
    ).set(
        body_background_fill="#f7f8fa",
        body_background_fill_dark="#0f1318",
        body_text_color="#1c2430",
        body_text_color_dark="#e9edf2",
        body_text_color_subdued="#5b6675",
        body_text_color_subdued_dark="#a3adba",
        block_background_fill="#ffffff",
        block_background_fill_dark="#171c23",
        block_border_width="1px",
        block_border_color="#e1e5ea",
        block_border_color_dark="#2c343f",
        block_label_text_color="#465160",
        block_label_text_color_dark="#c4ccd6",
        block_title_text_color="#323b48",
        block_title_text_color_dark="#d5dbe3",
        block_title_text_weight="600",
        block_info_text_color="#5b6675",
        block_info_text_color_dark="#a3adba",
        block_shadow="none",
        input_background_fill="#ffffff",
        input_background_fill_dark="#11161c",
        input_border_width="1px",
        input_border_color="#c9cfd8",
        input_border_color_dark="#3a4450",
        button_primary_background_fill="#0b6270",
        button_primary_background_fill_hover="#0a5461",
        button_primary_background_fill_dark="#5cc3d2",
        button_primary_background_fill_hover_dark="#7cd3df",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#08222a",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#20262f",
        button_secondary_border_color="#c9cfd8",
        button_secondary_border_color_dark="#3a4450",
        button_secondary_text_color="#1c2430",
        button_secondary_text_color_dark="#e9edf2",
        slider_color="#0b6270",
        slider_color_dark="#5cc3d2",
        link_text_color="#0b6270",
        link_text_color_dark="#5cc3d2",
    )
