"""How the page looks: calm grays and one accent, light and dark; all fonts come with Gradio, none from the network."""

import gradio as gr

THEME = gr.themes.Default(
    primary_hue="teal",
    secondary_hue="teal",
    neutral_hue="slate",
    radius_size="lg",
    # Of Gradio's bundled fonts only the regular and bold files hold the Latin letters, so the weights are given.
    font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
    font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    block_background_fill="white",
    block_background_fill_dark="*neutral_900",
    block_border_color="*neutral_200",
    block_border_color_dark="*neutral_800",
    block_shadow="0 1px 2px rgb(15 23 42 / 6%)",
    block_shadow_dark="none",
    # At least 4.5:1 on the page and on cards, in both modes.
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    color_accent="*primary_700",
    link_text_color="*primary_700",
    link_text_color_dark="*primary_300",
    loader_color="*primary_700",
    stat_background_fill="*primary_600",
    stat_background_fill_dark="*primary_400",
    block_label_text_color="*neutral_600",
    block_label_text_color_dark="*neutral_300",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
)

CSS = """
.gradio-container > .main { max-width: 1168px !important; margin: 0 auto; padding: 32px 24px 16px; }
.dark { --color-accent: var(--primary-400); }
#intro h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
#intro p { font-size: 1.0625rem; margin: 0; color: var(--body-text-color-subdued); }
#intro, #samples h2, #verdict, #model-facts { padding: 0; }

/* Workbench: the picture left, the answer right, of one height; on a phone one above the other, both in sight. */
#workbench { gap: 20px; margin: 8px 0 16px; }
#picture, #result { box-sizing: border-box; flex: 1 1 calc(50% - 10px) !important; }
#picture { height: 380px; }
#picture .image-frame, #picture .image-frame img { width: 100%; height: 100%; }
#picture .image-frame img { object-fit: contain; }
#picture .source-selection .icon:not(.selected) { color: var(--body-text-color-subdued); }
#result { justify-content: center; gap: 4px; padding: 20px 24px; background: var(--block-background-fill);
  border: 1px solid var(--block-border-color); border-radius: var(--block-radius); box-shadow: var(--block-shadow); }
#answer { min-height: 0; flex-grow: 0; }
#answer .container { padding: 0; }
#answer h2 { font-size: 3rem; line-height: 1; padding: 0 0 12px; }
#verdict { flex-grow: 0; }
#result:has(.empty) #verdict { text-align: center; }
#verdict p { margin: 8px 0 0; text-wrap: pretty; }
#verdict small { display: block; margin-top: 4px; font-size: 0.8125rem; color: var(--body-text-color-subdued); }

/* Each class on one line: name, bar in its track, percentage. */
#answer .confidence-set { display: block; width: 100%; margin: 0; padding: 3px 0; cursor: default; }
#answer .inner-wrap { display: grid; grid-template-columns: minmax(1.5em, max-content) 1fr 3.2em; gap: 12px;
  align-items: center; }
#answer .inner-wrap::before { content: ""; grid-area: 1 / 2; height: 10px; border-radius: 5px;
  background: var(--neutral-100); }
.dark #answer .inner-wrap::before { background: var(--neutral-800); }
#answer meter { grid-area: 1 / 2; align-self: center; appearance: none; height: 10px; min-width: 2px;
  margin: 0; border-radius: 5px; }
#answer meter::-webkit-meter-inner-element, #answer meter::-webkit-meter-bar { display: none; }
#answer meter::-moz-meter-bar { background: none; }
#answer dl { display: contents; }
#answer dt, #answer dd { align-self: center; line-height: 1.4; }
#answer dt { grid-area: 1 / 1; font-family: var(--font); text-align: left; }
#answer dd { grid-area: 1 / 3; font-family: var(--font); font-variant-numeric: tabular-nums; text-align: right; }
#answer .line { display: none; }

/* Samples: as many to a row as fit. The filters are rows of buttons, one of them pressed. */
#samples h2 { font-size: 1.25rem; margin: 0; }
#filters { gap: 12px 24px; }
#filters > .form { flex-direction: row; flex-wrap: wrap; gap: 12px 32px; background: none; border: 0;
  box-shadow: none; overflow: visible; }
#filters fieldset { flex: 0 1 auto; min-width: 0 !important; padding: 0; background: none; border: 0; box-shadow: none;
  overflow: visible !important; }
#filters .wrap { gap: 6px; }
#filters label { justify-content: center; min-width: 42px; min-height: 42px; padding: 0 12px; box-shadow: none;
  border-radius: 20px; }
#filters label input { position: absolute; opacity: 0; }
#filters label span { margin: 0; }
#filters label.selected { background: var(--primary-700); border-color: var(--primary-700); color: white; }
#filters label:focus-within { outline: 2px solid var(--primary-500); outline-offset: 2px; }
#gallery .grid-wrap { min-height: 0 !important; max-height: none; padding: 2px; overflow: visible; }
#gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(80px, 1fr)) !important;
  grid-template-rows: none; grid-auto-rows: auto; gap: 10px; }

#model-facts { margin-top: 24px; padding-top: 16px; border-top: 1px solid var(--border-color-primary); }
footer { gap: 24px; }
footer .divider { display: none !important; }
#model-facts p { font-size: 0.875rem; color: var(--body-text-color-subdued); }

@media (max-width: 700px) {
  .gradio-container > .main { padding: 20px 16px 12px; }
  #intro h1 { font-size: 1.625rem; }
  #workbench { flex-direction: column; gap: 12px; }
  #picture, #result { flex: none !important; }
  #picture { height: 260px; }
  #result { padding: 16px; }
  #answer h2 { font-size: 2.25rem; padding-bottom: 8px; }
  #gallery .grid-container { grid-template-columns: repeat(4, 1fr) !important; gap: 8px; }
}
@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }
"""
