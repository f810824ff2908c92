"""SenCache Store and Resume: what the model gave in earlier runs, kept on disk."""

from __future__ import annotations

from comfy_api.latest import io

from ..sencache_core import Message
from ..sencache_core.measure.stored import CallStore
from . import folders
from .host import CATEGORY, make, show_text


class SenCacheStore(io.ComfyNode):
    """Keeps what the model gives."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="SenCacheStore",
            display_name="SenCache Store",
            category=CATEGORY,
            search_aliases=["flexcache", "save latent", "checkpoint run", "interrupted"],
            description=(
                "Keeps on disk what the model gives at every step, so that SenCache Resume need "
                "not compute it again: after an interrupt, a crash, a restart, or a change that "
                "only concerns later steps. The clip stays the same."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with. It is not changed."),
                io.Float.Input(
                    "limit_gb",
                    default=10.0,
                    min=0.1,
                    max=10000.0,
                    step=0.1,
                    tooltip=(
                        "Gigabytes that the store may take up on disk, in "
                        "user/default/sencache/stored. What has not been used for longest makes "
                        "room. A step of Wan at 832 x 480 and 81 frames takes 17 MB."
                    ),
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, with storing.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, limit_gb: float) -> io.NodeOutput:
        from ..sencache_core.hosts.comfy_stored import Count, keep

        store, node = CallStore(folders.stored(), int(limit_gb * 1e9)), cls.hidden.unique_id

        def told(count: Count) -> None:
            used = store.nbytes() / 1e9
            sizes = {"used": round(used, 1), "limit": limit_gb}
            said = Message.of("stored.kept", count=count.kept, **sizes)
            show_text("\n".join([str(said), *count.texts]), node)

        return io.NodeOutput(keep(model, store, told))


class SenCacheResume(io.ComfyNode):
    """Answers model calls from the store."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="SenCacheResume",
            display_name="SenCache Resume",
            category=CATEGORY,
            search_aliases=["flexcache", "load latent", "continue run", "interrupted"],
            description=(
                "Takes from the store of SenCache Store what the model gave for the very same "
                "input in an earlier run. The clip is the same, bit for bit, with any sampler and "
                "with SenCache Apply; steps that nothing is known of are computed."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with. It is not changed."),
                make(
                    io.Float.Input,
                    "similarity",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Experimental: changes the clip. Below 1.0, the first steps may come from "
                        "a run with another prompt, the same seed, size and settings: the layout "
                        "is then its. Smallest cosine between the mean text embeddings of the two; "
                        "after a run the node shows it. 1.0 switches this off."
                    ),
                ),
                make(
                    io.Float.Input,
                    "similar_share",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Share of the steps, from the first one on, that may come from another "
                        "prompt. Raising it saves more and keeps more of the other clip. Only read "
                        "when similarity is below 1.0."
                    ),
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, with resuming.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, similarity: float = 1.0, similar_share: float = 0.25) -> io.NodeOutput:
        from ..sencache_core.hosts.comfy_stored import Count, resume

        store, node = CallStore(folders.stored()), cls.hidden.unique_id

        def told(count: Count) -> None:
            show_text("\n".join([*map(str, summary(count)), *count.texts]), node)

        return io.NodeOutput(resume(model, store, similarity, similar_share, told))


def summary(count) -> list[Message]:
    """What Resume says after a run.

    Args:
        count: ``hosts.comfy_stored.Count``.
    """
    lines = [Message.of("stored.answered", answered=count.answered, count=count.calls)]
    if count.similar:
        cosine = round(min(count.cosines), 3)
        lines.append(Message.of("stored.similar", similar=count.similar, cosine=cosine))
    elif count.cosines:
        lines.append(Message.of("stored.nearest", cosine=round(count.cosines[0], 3)))
    if count.answered + count.similar == count.calls:
        return lines
    if count.first:
        lines.append(Message.of("stored.ran_from", step=count.first + 1, steps=count.steps))
    elif count.differs:
        parts = [Message(f"stored.{part}") for part in count.differs]
        lines.append(Message.of("stored.differs", parts=parts))
    return lines
