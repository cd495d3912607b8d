"""Simulators as models of inspect_ai, for tasks that bring a simulated user of their own.

    inspect eval their_task.py --model openai/gpt-5 --model-role user=simgym/FineTuned

Such a task asks the model of the role `user` with the roles turned round: the system message says what the user wants,
`user` messages are what the assistant said, `assistant` messages what the user said before.
"""

from __future__ import annotations

import functools
from typing import Any

from simgym.conversation import INTENT_PREFIX, Message, Scenario
from simgym.errors import SimgymError
from simgym.extras import imports_of
from simgym.registration import environments
from simgym.seeding import derive_seed
from simgym.simulated_user import SimulatedUser, user
from simgym.transcripts import text_hash

with imports_of("inspect", "The model provider for inspect_ai"):
    import anyio.to_thread
    from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput, modelapi


@modelapi(name="simgym")
class SimulatedUserAPI(ModelAPI):
    """A simulator as a model that plays the user: the system message says what the user wants, `user` messages are what
    the assistant said. When the user leaves, the reply ends with `stop`. Options are arguments of the simulator."""

    def __init__(
        self,
        model_name: str,
        *arguments: Any,
        stop: str = "###STOP###",
        simulator_model: Any = None,
        **options: Any,
    ) -> None:
        names = ("base_url", "api_key", "api_key_vars", "config")
        super().__init__(model_name, *arguments, **{name: options.pop(name) for name in names if name in options})
        rows = environments()
        row = rows.get(model_name) or rows.get(f"UserSim-{model_name}-v0")
        self._simulator = row.simulator if row is not None else model_name
        self._model, self._options, self._stop = simulator_model, options, stop
        self._seat("check", 0)  # a wrong name is an error now

    def _seat(self, wish: str, seed: int) -> SimulatedUser:
        intent = wish if wish.startswith(INTENT_PREFIX) else f"{INTENT_PREFIX}{wish or 'chat'}"
        scenario = Scenario(text_hash(wish), intent, persona_seed=derive_seed(0, wish), source="inspect")
        return user(self._simulator, scenario, seed=seed, model=self._model, options=self._options)

    async def generate(
        self, input: list[ChatMessage], tools: object, tool_choice: object, config: GenerateConfig
    ) -> ModelOutput:
        wish = "\n".join(message.text for message in input if message.role == "system")
        seats = {"user": "assistant", "assistant": "user"}
        said = [Message(seats[message.role], message.text) for message in input if message.role in seats]  # type: ignore[arg-type]
        if said and said[0].role == "assistant":  # a greeting that the user does not answer
            said = said[1:]
        seat = self._seat(wish, derive_seed(config.seed or 0, "inspect", wish))
        reply = functools.partial(seat.reply, said) if said else seat.open
        turn = await anyio.to_thread.run_sync(reply)
        if turn.fault is not None:
            raise SimgymError(f"The simulated user has no reply: {turn.fault}.")
        content = f"{turn.text} {self._stop}".strip() if turn.ended else turn.text
        return ModelOutput.from_content(f"simgym/{self.model_name}", content)
