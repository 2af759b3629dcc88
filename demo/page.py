"""The page: what a person types, checked and limited, goes to the model; what it says comes back as HTML.

In    a RedHeartPipeline, Settings.
Out   gradio.Blocks.
Run   through demo/__main__.py

An error is shown where the answer would be, to the person who asked; a fault of the program is written to the log
with its trace, and the page says no more than that there was one.
"""

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from demo.draw import alert, answer_html, dialogue_html, why_html
from demo.limits import Rate
from demo.words import EXAMPLES, LANGUAGES, Language, say
from redheart_hf import RedHeartPipeline

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """`most_characters` of all that is typed at once, `most_actions`, `most_turns`; `per_minute` questions a visitor;
    `similar` cases out of `index`."""

    most_characters: int = 4000
    most_actions: int = 8
    most_turns: int = 30
    per_minute: int = 60
    index: Path | None = None
    similar: int = 3


class Refused(ValueError):
    """What a person asked cannot be answered; the message is for that person."""


class Page:
    """What the buttons do. Each method takes what was typed and the request, and gives HTML back."""

    def __init__(self, ask: RedHeartPipeline, settings: Settings):
        self.ask, self.settings, self.rate = ask, settings, Rate(settings.per_minute)

    def scenario(self, spoken: str, text: str, actions: str, chosen: float, request: gr.Request) -> tuple[str, str]:
        """The answer; and nothing where an earlier question's reasons stood."""

        def act(language: Language) -> str:
            more = {"similar": self.settings.similar, "index": self.settings.index} if self.settings.index else {}
            return answer_html(self.ask(self.question(text, actions, chosen, language), **more), language)

        return self.guarded(spoken, request, act), ""

    def why(self, spoken: str, text: str, actions: str, chosen: float, request: gr.Request) -> str:
        def act(language: Language) -> str:
            question = self.question(text, actions, chosen, language)
            return why_html(self.ask(question, explain=True)["explanation"], language)

        return self.guarded(spoken, request, act)

    def turn(self, spoken: str, text: str, said: list[str], request: gr.Request) -> tuple[list[str], str, str]:
        """The dialogue with one more turn, an empty box, and the state after each turn."""
        kept = [*said]

        def act(language: Language) -> str:
            if "affect_filter" not in self.ask.model.config.modules:
                raise Refused(say("no_filter", language))
            if len(said) >= self.settings.most_turns:
                raise Refused(say("too_many_turns", language, len(said)))
            self.check(text, language)
            # The first turn is a dialogue of one: the state before it is nothing.
            answer = self.ask({"text": text, "turns": said}) if said else self.first(text)
            kept.append(text)
            return dialogue_html(answer, language)

        shown = self.guarded(spoken, request, act)
        return kept, "" if len(kept) > len(said) else text, shown

    def first(self, text: str) -> dict[str, Any]:
        answer = self.ask({"text": text, "turns": [text]})
        turn = answer["dialogue"][0]
        return answer | {"dialogue": [turn]} | {name: value for name, value in turn.items() if name != "text"}

    def question(self, text: str, actions: str, chosen: float, language: Language) -> dict[str, Any]:
        self.check(text, language, len(actions))
        lines = [line.strip() for line in actions.splitlines() if line.strip()]
        if len(lines) > self.settings.most_actions:
            raise Refused(say("too_many", language, len(lines), self.settings.most_actions))
        if len(lines) == 1:
            raise Refused(say("one_action", language))
        if not lines or not chosen:  # nothing to choose from, or nothing chosen
            return {"text": text, "actions": lines}
        if chosen not in range(1, len(lines) + 1):
            raise Refused(say("no_choice", language, f"{chosen:g}", len(lines)))
        return {"text": text, "actions": lines, "chosen": int(chosen) - 1}

    def check(self, text: str, language: Language, beside: int = 0) -> None:
        """`beside`: characters that are typed besides it."""
        if not text.strip():
            raise Refused(say("empty", language))
        if (typed := len(text) + beside) > self.settings.most_characters:
            raise Refused(say("too_long", language, f"{typed:,}", f"{self.settings.most_characters:,}"))

    def guarded(self, spoken: str, request: gr.Request, act: Callable[[Language], str]) -> str:
        """What `act` gives, or an alert that says why there is nothing."""
        language = LANGUAGES.get(str(spoken), "en")
        visitor = request.client.host if request.client else ""
        if not self.rate.allows(visitor):
            return alert(say("slow_down", language, self.settings.per_minute))
        try:
            return act(language)
        except ValueError as error:  # Refused, and what the pipeline refuses
            return alert(str(error))
        except Exception:
            logger.error("a question could not be answered\n%s", traceback.format_exc())
            return alert(say("fault", language))


def build(ask: RedHeartPipeline, settings: Settings, run: str | None = None) -> gr.Blocks:
    """The whole page; `run` is the HTML of a training run's curves, for a page of its own."""
    page, most = Page(ask, settings), settings.most_characters
    with gr.Blocks(title="Red Heart", analytics_enabled=False) as blocks:
        spoken = gr.Radio(list(LANGUAGES), value="English", show_label=False, container=False, elem_id="language")
        head = gr.Markdown(heading("en"))
        with gr.Tabs():
            with gr.Tab(say("scenario", "en")) as scenario:
                text = gr.Textbox(label=say("text", "en"), lines=3, max_length=most, elem_id="text")
                actions = gr.Textbox(label=say("actions", "en"), lines=3, max_length=most, elem_id="actions")
                chosen = gr.Number(0, label=say("chosen", "en"), precision=0, minimum=0, maximum=settings.most_actions)
                examples = {language: example_buttons(language, [text, actions, chosen]) for language in EXAMPLES}
                with gr.Row():
                    asked = gr.Button(say("ask", "en"), variant="primary", elem_id="ask")
                    reasons = gr.Button(say("why", "en"), elem_id="why")
                answer, because = gr.HTML(elem_id="answer"), gr.HTML(elem_id="because")
            with gr.Tab(say("dialogue", "en")) as dialogue:
                said = gr.State([])
                turn = gr.Textbox(label=say("turn", "en"), lines=1, max_length=most, elem_id="turn")
                with gr.Row():
                    saying = gr.Button(say("say", "en"), variant="primary", elem_id="say")
                    anew = gr.Button(say("anew", "en"), elem_id="anew")
                state = gr.HTML(elem_id="state")
            if run is not None:
                with gr.Tab(say("run", "en")):
                    gr.HTML(f'<iframe title="training run" class="rh-run" srcdoc="{escape(run)}"></iframe>')
        given = [spoken, text, actions, chosen]
        asked.click(page.scenario, given, [answer, because], api_name="scenario", concurrency_id="model")
        reasons.click(page.why, given, because, api_name="why", concurrency_id="model")
        outputs = [said, turn, state]
        for event in (saying.click, turn.submit):
            event(page.turn, [spoken, turn, said], outputs, api_visibility="private", concurrency_id="model")
        anew.click(lambda: ([], "", ""), None, outputs, api_visibility="private")
        named = {"text": text, "actions": actions, "chosen": chosen, "turn": turn}
        buttons = {"ask": asked, "why": reasons, "say": saying, "anew": anew}
        tabs = {"scenario": scenario, "dialogue": dialogue}
        parts = [head, *named.values(), *buttons.values(), *tabs.values(), *examples.values()]

        def speak(chosen_language: str) -> list[Any]:
            language = LANGUAGES.get(chosen_language, "en")
            labels = [gr.update(label=say(name, language)) for name in named]
            values = [gr.update(value=say(name, language)) for name in buttons]
            titles = [gr.update(label=say(name, language)) for name in tabs]
            return [
                heading(language),
                *labels,
                *values,
                *titles,
                *(gr.update(visible=of == language) for of in examples),
            ]

        spoken.change(speak, spoken, parts, api_visibility="private")
        blocks.load(language_of, None, spoken, api_visibility="private")
    return blocks


def example_buttons(language: Language, fields: list[Any]) -> gr.Row:
    """One fills the fields, with what it says first."""
    with gr.Row(visible=language == "en") as row:
        for example in EXAMPLES[language]:
            button = gr.Button(example[0], size="sm", min_width=120)
            button.click(lambda of=example: list(of), None, fields, api_visibility="private")
    return row


def heading(language: Language) -> str:
    return f"# {say('title', language)}\n{say('lead', language)}"


def language_of(request: gr.Request) -> str:
    """What the visitor's browser prefers."""
    wanted = str(request.headers.get("accept-language", "")).lower()
    return "한국어" if wanted.startswith("ko") else "English"
