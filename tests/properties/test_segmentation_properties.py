"""What holds for every search-agent text, whatever it is made of."""

from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.episodes.segmentation import SPAN_MODES, token_span, turn_targets
from stepopsd_rllib.reference.search_segmentation import (
    FEEDBACK_CLOSING,
    FEEDBACK_OPENING,
    feedback_spans,
    search_steps,
    target_spans,
)
from stepopsd_rllib.reference.trajectory_row import search_trajectory_rows

pieces = st.sampled_from(
    [
        "<search>",
        "</search>",
        "<answer>",
        "</answer>",
        "<information>",
        "</information>",
        "<think>t</think>",
        "<search>q</search>",
        "<answer>é😀</answer>",
        "\n\n<information>d</information>\n\n",
        "\n" + FEEDBACK_OPENING + " <search> and </search>. " + FEEDBACK_CLOSING,
        FEEDBACK_OPENING,
        FEEDBACK_CLOSING,
        " ",
        "\n",
        "words",
    ]
)
texts = st.lists(pieces, max_size=12).map("".join)


@given(texts)
def test_steps_follow_one_another_and_hold_their_action(text):
    end = 0
    for step in search_steps(text):
        assert end <= step.step_start <= step.action_start < step.action_end <= step.clean_end
        assert step.clean_end <= step.step_end <= len(text)
        assert not text[step.step_start].isspace()
        assert not any(a <= step.step_start < b for a, b in feedback_spans(text))
        assert not any(a <= step.action_start < b for a, b in feedback_spans(text))
        action = text[step.action_start : step.action_end]
        assert action.startswith(f"<{step.action_type}>")
        assert action.endswith(f"</{step.action_type}>")
        end = step.step_end


@given(texts)
def test_only_the_last_answer_is_final(text):
    steps = search_steps(text)
    answers = [i for i, step in enumerate(steps) if step.action_type == "answer"]
    assert [i for i, step in enumerate(steps) if step.is_final_answer] == answers[-1:]


@given(texts)
def test_narrower_modes_credit_parts_of_wider_ones(text):
    steps = search_steps(text)
    clean, action, answer, final = (target_spans(steps, mode) for mode in SPAN_MODES)
    assert set(final) <= set(answer) <= set(action)
    for (start, stop), (action_start, action_stop) in zip(clean, action, strict=True):
        assert start <= action_start < action_stop <= stop


@given(st.lists(texts, max_size=4))
def test_a_turn_is_credited_on_its_first_action(responses):
    clean, action, answer, final = (
        turn_targets(responses, mode, action_tags=("search", "answer"), answer_tags=("answer",))
        for mode in SPAN_MODES
    )
    assert [span is not None for span in clean] == [bool(response) for response in responses]
    for response, span in zip(responses, action, strict=True):
        if span:
            assert response[slice(*span)].startswith(("<search>", "<answer>"))
            assert response[slice(*span)].endswith(("</search>", "</answer>"))
    assert all(narrow in (None, wide) for narrow, wide in zip(answer, action, strict=True))
    assert [span for span in final if span] == [span for span in answer if span][-1:]


@given(texts, st.data())
def test_tokens_of_a_span_cover_it_and_no_more(text, data):
    """Tokens of 1 to 3 bytes of UTF-8, so that characters are torn apart."""
    content = text.encode()
    ids = []
    while sum(map(len, ids)) < len(content):
        at = sum(map(len, ids))
        ids.append(content[at : at + data.draw(st.integers(1, 3))])

    def decode(part):
        return b"".join(part).decode(errors="replace")

    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    first, stop = token_span(decode, ids, (start, end))
    if start == end:
        assert first == stop
        return
    wanted = range(len(text[:start].encode()), len(text[:end].encode()))
    expected = [
        i
        for i in range(len(ids))
        if set(wanted) & set(range(sum(map(len, ids[:i])), sum(map(len, ids[: i + 1]))))
    ]
    assert list(range(first, stop)) == expected


tokens = st.lists(st.integers(1, 99), max_size=4)


@given(
    st.integers(1, 3).flatmap(
        lambda size: st.lists(
            st.tuples(*[st.lists(tokens, min_size=size, max_size=size)] * 2), max_size=4
        )
    ),
    st.integers(1, 12),
)
def test_whole_trajectory_rows_hold_every_token_once_in_order(turns, limit):
    rows = search_trajectory_rows(turns, max_tokens=limit, pad_id=0)
    num_rows = len(turns[0][0]) if turns else 0
    for b in range(num_rows):
        parts = [part for actions, observations in turns for part in (actions[b], observations[b])]
        whole = [token for part in parts for token in part][:limit]
        is_action = [1 - i % 2 for i, part in enumerate(parts) for _ in part][:limit]
        num_pads = len(rows.token_ids[b]) - len(whole)
        assert rows.token_ids[b] == whole + [0] * num_pads
        assert rows.attention_mask[b] == [1] * len(whole) + [0] * num_pads
        assert rows.loss_mask[b] == is_action + [0] * num_pads
    widths = {len(row) for row in rows.token_ids}
    assert widths <= {min(limit, max((sum(row) for row in rows.attention_mask), default=0))}
