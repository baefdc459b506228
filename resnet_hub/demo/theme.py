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
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_600",
    block_label_text_color="*neutral_600",
    block_label_text_color_dark="*neutral_300",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
)

CSS = """
.gradio-container > .main { max-width: 1168px !important; margin: 0 auto; padding: 32px 24px 16px; }
.dark { --color-accent: var(--primary-400); }
.intro h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
.intro p { font-size: 1.0625rem; margin: 0; color: var(--body-text-color-subdued); }
.intro, #samples h2, #verdict, #model-facts, #facts, .help, #status { padding: 0; }
.help p { margin: 0 0 6px; max-width: 74ch; font-size: 0.9375rem; color: var(--body-text-color-subdued); }
.help strong { color: var(--body-text-color); }
.hint { color: var(--body-text-color-subdued); margin: 4px 0; }
.form:has(> #model), .form:has(> #inspected) { max-width: 440px; }

/* Workbench: the picture left, the answer right, of one height; on a phone one above the other, both in sight. */
.workbench { gap: 20px; margin: 4px 0 8px; align-items: stretch; }
.workbench > * { box-sizing: border-box; flex: 1 1 calc(50% - 10px) !important; min-width: 0 !important; }
#sources { gap: 8px; }
#sources .tabitem { padding: 0; border: 0; }
#picture, #live { height: 360px; }
#picture .image-frame, #picture .image-frame img { width: 100%; height: 100%; }
#picture .image-frame img { object-fit: contain; }
#picture .source-selection .icon:not(.selected) { color: var(--body-text-color-subdued); }
.sheet { justify-content: center; gap: 8px; padding: 20px 24px; background: var(--block-background-fill);
  border: 1px solid var(--block-border-color); border-radius: var(--block-radius); box-shadow: var(--block-shadow); }
#result { gap: 4px; }
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

#more { max-width: 160px; margin: 4px auto 0; }

/* Look inside: two pictures side by side. */
figure { margin: 0; }
figure img { display: block; width: 100%; border-radius: 8px; }
figcaption { margin-top: 6px; font-size: 0.875rem; color: var(--body-text-color-subdued); }
.figures > * { max-width: 400px; }
#stage .wrap { gap: 6px; }

/* Compare: a card for each model. */
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 16px; }
.card { padding: 16px 20px; background: var(--block-background-fill); border: 1px solid var(--block-border-color);
  border-radius: var(--block-radius); }
.card h2 { margin: 0; font-size: 1rem; overflow-wrap: anywhere; }
.card .answer { margin: 4px 0 8px; font-size: 2.25rem; line-height: 1.1; font-weight: 700; }
.card small { font-size: 0.8125rem; color: var(--body-text-color-subdued); }
.bars { width: 100%; margin-bottom: 12px; border-collapse: collapse; font-variant-numeric: tabular-nums; }
.bars, .bars * , .matrix, .matrix * { border: 0; }
.bars th { width: 1%; padding: 2px 12px 2px 0; text-align: left; font-weight: 400; white-space: nowrap; }
.bars td:last-child { width: 3.2em; text-align: right; }
.bars meter { display: block; width: 100%; height: 10px; appearance: none; background: var(--neutral-100);
  border-radius: 5px; overflow: hidden; }
.dark .bars meter { background: var(--neutral-800); }
.bars meter::-webkit-meter-inner-element { display: block; }
.bars meter::-webkit-meter-bar { background: none; border: 0; height: 10px; }
.bars meter::-webkit-meter-optimum-value { background: var(--stat-background-fill); border-radius: 5px; }
.bars meter::-moz-meter-bar { background: var(--stat-background-fill); }

/* Inspect: the matrix, darker the larger the share, and the pictures of a cell. */
.scroll { overflow-x: auto; }
.matrix { border-collapse: separate; border-spacing: 3px; font-variant-numeric: tabular-nums; }
.matrix caption { caption-side: bottom; padding-top: 6px; text-align: left; font-size: 0.875rem;
  color: var(--body-text-color-subdued); }
.matrix td { padding: 0; }
.matrix th { padding: 0 8px; font-weight: 400; text-align: center; }
.matrix tbody th { text-align: right; }
.matrix button { width: 48px; height: 42px; border: 1px solid transparent; border-radius: 6px; cursor: pointer;
  color: var(--body-text-color); background: var(--background-fill-secondary); }
.matrix button:disabled { cursor: default; color: var(--body-text-color-subdued); }
.matrix button.right { background: color-mix(in srgb, var(--primary-300) calc(100% * var(--share)),
  var(--background-fill-secondary)); }
.matrix button.wrong:enabled { background: color-mix(in srgb, #fb923c calc(25% + 75% * var(--share)),
  var(--background-fill-secondary)); }
.dark .matrix button.right { background: color-mix(in srgb, var(--primary-800) calc(100% * var(--share)),
  var(--background-fill-secondary)); }
.dark .matrix button.wrong:enabled { background: color-mix(in srgb, #9a3412 calc(25% + 75% * var(--share)),
  var(--background-fill-secondary)); }
.matrix button:focus-visible { outline: 2px solid var(--primary-500); outline-offset: 1px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: 12px; }
#cell h3 { margin: 12px 0 8px; font-size: 1.0625rem; }
#table td, #table th, #per-class td, #recipe td, #layers td { font-family: var(--font); }
#table img { width: 48px; height: 48px; object-fit: cover; border-radius: 6px; }

#model-facts { margin-top: 24px; padding-top: 16px; border-top: 1px solid var(--border-color-primary); }
footer { gap: 24px; }
footer .divider { display: none !important; }
#model-facts p, #facts p { font-size: 0.875rem; color: var(--body-text-color-subdued); }

@media (max-width: 700px) {
  .gradio-container > .main { padding: 20px 16px 12px; }
  .intro h1 { font-size: 1.625rem; }
  .workbench { flex-direction: column; gap: 12px; }
  .workbench > * { flex: none !important; width: 100%; }
  #picture, #live { height: 240px; }
  .sheet { padding: 16px; }
  .figures { flex-direction: column; }
  .matrix { border-spacing: 2px; }
  .matrix button { width: 40px; height: 38px; }
  #answer h2 { font-size: 2.25rem; padding-bottom: 8px; }
  #gallery .grid-container { grid-template-columns: repeat(4, 1fr) !important; gap: 8px; }
}
@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }
"""
