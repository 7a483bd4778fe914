from training.feedback.sentences import neighbouring_sentences

TEXT = (
    "We met at dawn by the river. They came late and left early! Yes. so it was said by all of them. It rained on us."
)


def test_neighbouring_sentences_of_the_right_length_are_drawn() -> None:
    drawn = neighbouring_sentences([TEXT, TEXT], count=10, min_words=4, max_words=7, seed=0)
    assert [(e.prompt, e.answer) for e in drawn] == [
        ((("user", "We met at dawn by the river."),), "They came late and left early!")
    ]


def test_one_more_text_changes_only_what_it_displaces() -> None:
    texts = [f"Number {n} is a fine one indeed. It comes right after number {n - 1}, doesn't it?" for n in range(200)]
    before = neighbouring_sentences(texts[:-1], count=50, min_words=4, max_words=20, seed=3)
    after = neighbouring_sentences(texts, count=50, min_words=4, max_words=20, seed=3)
    assert len(before) == len(after) == 50
    assert len(set(before) - set(after)) <= 1
    assert set(before) != set(neighbouring_sentences(texts, count=50, min_words=4, max_words=20, seed=4))
