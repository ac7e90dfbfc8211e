"""Examples that are made of others: values are exchanged, and dialogues go on."""

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

from edged.specialists.compact.schemas import tools_shape
from edged.specialists.dialogues import MAX_TURNS, Dialogue, Turn
from edged.specialists.follow_ups import FollowUps
from edged.specialists.hearing import Heard
from edged.specialists.multiply import Multiplier
from tests.unit.test_grounding import AREAS, SHAPE, call

ACCOUNTS = ["checking", "savings", "joint", "credit_card"]


def functions() -> list[dict[str, Any]]:
    def text(*values: str) -> dict[str, Any]:
        return {"type": "string", "enum": list(values)}

    amount = {"type": "number", "minimum": 0}
    parameters = {
        "balance": {"account": text(*ACCOUNTS)},
        "transfer": {"amount": amount, "from": text(*ACCOUNTS), "to": text(*ACCOUNTS)},
        "freeze": {"card": text("credit", "debit", "prepaid")},
        "blinds": {"position": text("open", "half", "closed")},
        "door": {"action": text("lock", "unlock")},
        "unclear": {"reason": text("vague", "unsupported")},
    }
    return [
        {
            "type": "function",
            "function": {"name": name, "parameters": {"type": "object", "properties": fields}},
        }
        for name, fields in parameters.items()
    ]


BANK = tools_shape(functions())


def dialogue(said: str, answer: object, line: int = 1) -> Dialogue:
    return Dialogue((Turn(said, answer),), line, "group")


def test_values_are_exchanged_in_prompt_and_answer_alike() -> None:
    said = "Lamps in the Kitchen to 40"
    dialogues = [
        dialogue(said, call(area="kitchen", level=40)),
        dialogue("garage lamps to 90", call(area="garage", level=90), 2),
    ]
    multiplier = Multiplier(dialogues, SHAPE)
    seen = set()
    for number in range(60):
        (turn,) = multiplier.variation(dialogues[0], number).turns
        arguments = turn.answer["arguments"]
        assert Heard(turn.said).says(arguments["area"])
        assert str(arguments["level"]) in turn.said
        assert 40 <= arguments["level"] <= 90
        seen.add(arguments["area"])
    assert seen == set(AREAS)
    again = Multiplier(dialogues, SHAPE).variation(dialogues[0], 3)
    assert again == multiplier.variation(dialogues[0], 3)
    assert again != Multiplier(dialogues, SHAPE, seed=1).variation(dialogues[0], 3)


def test_a_value_that_is_said_twice_or_not_at_all_stays() -> None:
    dialogues = [dialogue("kitchen to kitchen", call(area="kitchen", kind="light"))]
    multiplier = Multiplier(dialogues, SHAPE)
    for number in range(20):
        (turn,) = multiplier.variation(dialogues[0], number).turns
        assert turn.answer == dialogues[0].turns[0].answer


def test_a_value_of_an_earlier_turn_is_exchanged_in_all() -> None:
    turns = (
        Turn("lamps in the garage", call(area="garage")),
        Turn("and stop there", call("stop", area="garage")),
    )
    one = Dialogue(turns, 1, "group")
    multiplier = Multiplier([one], SHAPE)
    answers = set()
    for number in range(30):
        first, second = multiplier.variation(one, number).turns
        area = first.answer["arguments"]["area"]
        assert second.answer["arguments"]["area"] == area
        assert Heard(first.said).says(area)
        answers.add(area)
    assert len(answers) > 1


def test_texts_that_are_answered_keep_their_letters() -> None:
    one = dialogue("please buy the Oat Milk today", call(item="Oat Milk"))
    multiplier = Multiplier([one], SHAPE)
    said = {multiplier.variation(one, number).turns[0].said for number in range(80)}
    assert len(said) > 3
    assert all("Oat Milk" in text for text in said)


def test_texts_are_said_otherwise_and_answered_the_same() -> None:
    one = dialogue("What is the time?", "It is noon.")
    multiplier = Multiplier([one], None)
    made = [multiplier.variation(one, number).turns[0] for number in range(80)]
    assert {turn.answer for turn in made} == {"It is noon."}
    assert "what is the time" in {turn.said for turn in made}
    assert any("please" in turn.said for turn in made)


def spoken(*turns: tuple[str, dict[str, Any]], line: int = 1) -> Dialogue:
    return Dialogue(tuple(Turn(said, answer) for said, answer in turns), line, f"line {line}")


def variations(one: Dialogue, count: int = 40) -> list[Sequence[Turn]]:
    multiplier = Multiplier([one], BANK)
    return [multiplier.variation(one, number).turns for number in range(count)]


def test_a_value_is_exchanged_alike_in_the_fields_of_all_functions() -> None:
    one = spoken(
        ("how much is in savings", call("balance", account="savings")),
        ("move it to joint", call("transfer", **{"from": "savings", "to": "joint"})),
    )
    found = set()
    for first, second in variations(one):
        account, moved = first.answer["arguments"]["account"], second.answer["arguments"]
        assert moved["from"] == account != moved["to"]
        assert Heard(first.said).says(account)
        assert Heard(second.said).says(moved["to"])
        found.add((account, moved["to"]))
    assert len(found) > 4


def test_what_is_said_otherwise_at_first_stays() -> None:
    one = spoken(
        ("move 5 from the join account", call("transfer", amount=5, **{"from": "joint"})),
        ("no, joint", call("transfer", amount=5, **{"from": "joint"})),
    )
    answers = {turn.answer["arguments"]["from"] for turns in variations(one) for turn in turns}
    assert answers == {"joint"}


def test_words_that_mean_something_other_elsewhere_stay() -> None:
    doors = spoken(
        ("open the blinds", call("blinds", position="open")),
        ("open the door", call("door", action="unlock")),
    )
    assert {turns[0].answer["arguments"]["position"] for turns in variations(doors)} == {"open"}
    cards = spoken(
        ("the balance of my credit card", call("balance", account="credit_card")),
        ("freeze the credit card", call("freeze", card="credit")),
    )
    for first, second in variations(cards):
        assert first.answer["arguments"]["account"] == "credit_card"
        assert second.answer["arguments"]["card"] == "credit"


def test_different_values_stay_different() -> None:
    alone = spoken(
        ("from savings to the join account", call("transfer", **{"from": "savings", "to": "joint"}))
    )
    pairs = [turns[0].answer["arguments"] for turns in variations(alone)]
    assert {one["to"] for one in pairs} == {"joint"}
    assert {one["from"] for one in pairs} == {"checking", "savings", "credit_card"}
    # Where what is left fits one of them only, both stay.
    names = ["alpha", "beta", "gamma"]
    parameters = {"all": names, "some": names[:2]}
    tools = [
        {
            "type": "function",
            "function": {
                "name": name,
                "parameters": {"type": "object", "properties": {"of": {"enum": values}}},
            },
        }
        for name, values in parameters.items()
    ]
    one = spoken(
        ("all of gamma", call("all", of="gamma")),
        ("some of beta", call("some", of="beta")),
        ("all of the first", call("all", of="alpha")),
    )
    multiplier = Multiplier([one], tools_shape(tools))
    for number in range(40):
        turns = multiplier.variation(one, number).turns
        answers = [turn.answer["arguments"]["of"] for turn in turns]
        assert len(set(answers)) == 3
        assert answers[1:] == ["beta", "alpha"]


def test_what_a_correction_takes_back_is_exchanged_as_well() -> None:
    one = spoken(
        ("what is in savings", call("balance", account="savings")),
        ("no, in joint, not savings", call("balance", account="joint")),
    )
    found = set()
    for first, second in variations(one):
        account = first.answer["arguments"]["account"]
        assert Heard(second.said).says(account)
        found.add(account)
    assert len(found) > 2


def test_a_number_in_words_becomes_one_that_has_words() -> None:
    dialogues = [
        spoken(("move forty", call("transfer", amount=40))),
        spoken(("move 45.5", call("transfer", amount=45.5)), line=2),
        spoken(("move 52", call("transfer", amount=52)), line=3),
    ]
    multiplier = Multiplier(dialogues, BANK)
    made = [multiplier.variation(dialogues[0], number).turns[0] for number in range(40)]
    assert {turn.answer["arguments"]["amount"] for turn in made} == {40, 52}


def test_a_name_with_underscores_is_said_in_words() -> None:
    one = spoken(("the balance of savings", call("balance", account="savings")))
    said = {turn.said for turns in variations(one) for turn in turns}
    assert any("credit card" in text.lower() for text in said)
    assert not any("_" in text for text in said)


def going_on(*more: Dialogue) -> list[Dialogue]:
    return [
        spoken(
            ("move 20 from savings to joint", call("transfer", amount=20, **MOVED)),
            ("and what is in joint", call("balance", account="joint")),
            line=1,
        ),
        spoken(
            ("what is in checking", call("balance", account="checking")),
            ("make it 90 to savings", call("transfer", amount=90, to="savings")),
            line=2,
        ),
        *more,
    ]


MOVED = {"from": "savings", "to": "joint"}


def said(dialogue: Dialogue) -> tuple[str, ...]:
    return tuple(turn.said for turn in dialogue.turns)


def after(one: Dialogue, dialogues: Sequence[Dialogue], count: int = 200) -> list[Dialogue]:
    follow_ups = FollowUps(dialogues, BANK)
    return [follow_ups.after(one, number) for number in range(count)]


def test_one_value_of_the_last_answer_is_changed_and_the_others_are_kept() -> None:
    moved = spoken(("20 from savings to joint", call("transfer", amount=20, **MOVED)), line=3)
    others = [turn.said for one in going_on(moved) for turn in one.turns]
    made = [one.turns for one in after(moved, going_on(moved))]
    last = [turns[1] for turns in made if len(turns) == 2 and turns[1].said not in others]
    swapped = [
        t for t in last if t.answer["arguments"] == {"amount": 20, "from": "joint", "to": "savings"}
    ]
    assert swapped
    assert all("way" in t.said or "swap" in t.said or "opposite" in t.said for t in swapped)
    amounts = [t for t in last if t.answer["arguments"] == {"amount": 90, **MOVED}]
    assert amounts
    assert all("90" in turn.said for turn in amounts)
    # Which of two accounts is meant would not be said.
    assert not [turn for turn in last if turn not in (*swapped, *amounts)]


def test_what_an_answer_leaves_out_is_added() -> None:
    asked = spoken(("what do i have", call("balance")), line=3)
    dialogues = going_on(asked)
    made = [one.turns[1] for one in after(asked, dialogues) if len(one.turns) == 2]
    added = [turn for turn in made if turn.said not in map(itemgetter(0), map(said, dialogues))]
    assert {turn.answer["arguments"]["account"] for turn in added} == set(ACCOUNTS)
    assert not any(" not " in turn.said for turn in added)
    for turn in added:
        assert Heard(turn.said).says(turn.answer["arguments"]["account"].replace("_", " "))


def test_of_two_alike_only_those_that_are_both_answered_are_exchanged() -> None:
    moved = spoken(("20 from savings", call("transfer", amount=20, **{"from": "savings"})), line=3)
    others = [turn.said for one in going_on(moved) for turn in one.turns]
    last = [one.turns[-1] for one in after(moved, going_on(moved)) if len(one.turns) == 2]
    changed = [turn.answer["arguments"] for turn in last if turn.said not in others]
    assert changed
    assert all(one == {"amount": 90, "from": "savings"} for one in changed)


def test_nobody_says_closed_too() -> None:
    one = spoken(("blinds half way", call("blinds", position="half")), line=3)
    two = spoken(("blinds open", call("blinds", position="open")), line=4)
    said_last = {said(made)[-1] for made in after(one, going_on(one, two))}
    assert "make it closed" in said_last
    assert not any("too" in text or text == "and closed" for text in said_last)
    account = spoken(("what is in joint", call("balance", account="joint")), line=3)
    assert "and savings" in {said(made)[-1] for made in after(account, going_on(account))}


def test_asides_follow_and_in_other_languages_nothing_is_said_in_english() -> None:
    aside = Turn("do fish sleep", call("unclear", reason="vague"))
    vague = spoken(("do something", call("unclear", reason="vague")), line=3)
    follow_ups = FollowUps(going_on(vague), BANK, asides=[aside])
    made = [follow_ups.after(vague, number).turns[1:] for number in range(200)]
    assert (aside,) in made
    german = spoken(
        ("was ist auf joint", call("balance", account="joint")),
        ("und savings", call("balance", account="savings")),
    )
    assert {said(one)[2:] for one in after(german, [german])} == {(), said(german)}


def test_no_dialogue_becomes_too_long() -> None:
    long = spoken(*[("what is in joint", call("balance", account="joint"))] * MAX_TURNS)
    assert after(long, [long]) == [long] * 200


def test_what_is_not_said_is_not_changed_and_other_examples_follow() -> None:
    vague = spoken(("do something", call("unclear", reason="vague")), line=3)
    dialogues = going_on(vague)
    made = after(vague, dialogues)
    assert {said(one)[1:] for one in made} == {(), *map(said, dialogues)}


def test_examples_with_other_inputs_do_not_follow() -> None:
    vague = spoken(("do something", call("unclear", reason="vague")), line=3)
    vague = replace(vague, inputs={"devices": []})
    made = after(vague, going_on(vague))
    assert {said(one)[1:] for one in made} == {(), said(vague)}


def test_examples_of_one_answer_each_do_not_go_on() -> None:
    single = [spoken((f"what is in {name}", call("balance", account=name))) for name in ACCOUNTS]
    assert after(single[0], single) == [single[0]] * 200


def test_the_same_number_goes_on_in_the_same_way() -> None:
    dialogues = going_on()
    assert after(dialogues[0], dialogues) == after(dialogues[0], dialogues)
    assert len(set(map(said, after(dialogues[0], dialogues)))) > 3
