"""The read model of research chats: conversations that build search strategies.

``strategies`` keeps one row a conversation in ``stream_projections``. `read_stream_messages` and
`read_stream_thinking` read transcripts straight from the logs. `simulate_conversation` makes up such chats,
for the demo.
"""

from projections.simulation import simulate_conversation
from projections.strategies import strategies
from projections.transcripts import read_stream_messages, read_stream_thinking

__all__ = ["read_stream_messages", "read_stream_thinking", "simulate_conversation", "strategies"]
