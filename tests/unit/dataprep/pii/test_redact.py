"""Personal data: each kind by hand, its checksums against independent ones, and the scan against looking everywhere."""

import random
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from dataprep.pii.config import PiiSettings
from dataprep.pii.kinds import KINDS, PiiKind
from dataprep.pii.redact import redact
from dataprep.pii.scan import find
from dataprep.text.column import TextColumn
from tests.unit.dataprep.pii import slow_pii
from tests.unit.dataprep.text import slow_twins

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA PRIVATE KEY-----"
POSITIVE: dict[str, list[str]] = {
    "email_address": [
        "me@example.org", "first.last+tag@mail.example.co.uk", "x_1@a-b.museum", "o'neil@example.org", "1@2.de",
        "_me@example.org",
    ],
    "ip_address": [
        "8.8.8.108", "151.101.1.69", "223.255.255.254", "2001:4860:4860::8888", "2a00:1450:4001:82b:0:0:0:200e",
        "2606:4700::", "2620:0:2d0:200::7", "2001:200:1:2:3:4:5:6",
    ],
    "phone_number": [
        "+49 30 901820", "+1 (415) 555-2671", "+442079460958", "+33 1 70 18 99 00", "+81-3-1234-5678",
        "(415) 555-2671", "415-555-2671", "415.555.2671", "1-415-555-2671", "(415)555-2671", "+86 138 0013 8000",
        "415 555 2671", "1 415 555 2671", "(415) 555 2671",
    ],
    "credit_card": [
        "4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "3782 822463 10005",
        "6011000990139424", "3530111333300000", "30569309025904", "2221000000000009", "4222222222222",
    ],
    "iban_code": [
        "DE89370400440532013000", "GB29 NWBK 6016 1331 9268 19", "NO9386011117947", "MT84MALT011000012345MTLCAST001S",
        "FR14 2004 1010 0505 0001 3M02 606", "SA03 8000 0000 6080 1016 7519",
    ],
    "secret": [
        "AKIA" + "IOSFODNN7EXAMPLE", "ghp_" + "a1B2" * 9, "github_pat_" + "A1" * 41, "sk-ant-api03-" + "aB3" * 12,
        "xoxb-" + "123456789012-abcdefghij", "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc", "AIza" + "Sy0" * 11 + "ab",
        "hf_" + "aB1" * 11 + "x", "glpat-" + "ab12_" * 4, JWT, PEM,
    ],
}  # fmt: skip
NEGATIVE: dict[str, list[str]] = {
    "email_address": ["me@localhost", "@example.org", "me@.org", "me@example.c", "me@example.o2", "a@b@c", "me@-x.org"],
    "ip_address": [
        "10.1.2.103", "192.168.0.110", "127.0.0.101", "172.16.254.1", "169.254.1.1", "192.0.2.1", "198.51.100.7",
        "203.0.113.9", "224.0.0.251", "255.255.255.255", "3.8.11.1", "256.1.1.1", "1.2.3.0104", "1.2.3.104.5",
        "v1.2.3.104", "1.2.103", "2001:db8::1", "fe80::1", "::1", "12:34:56", "2001:4860", "2001:1::2::3", "std::2001",
        "2001:200:1:2:3:4:5:6:7", "2001:200:1:2:3:4:5:", "20001:1::2",
    ],
    "phone_number": [
        "12345678", "+1234567", "+1234567890123456", "115-555-2671", "415-155-2671", "415-555-267", "415-555-26711",
        "415-555.2671", "2026-11-20", "555-2671", "+1 2 3 4 5 6 7 8 9",
        "12 415 555 2671", "415 555 2671 80", "415 555-2671", "115 555 2671", "415 555 267", "1-800-FLOWERS",
        "a+4930901820",
    ],
    "credit_card": [
        "4111111111111112", "1111111111111117", "411111111111111", "4111 1111-1111 1111", "41 11 11 11 11 11 11 11",
        "0000000000000000", "x4111111111111111", "4111111111111111x", "0.4111111111111111",
    ],
    "iban_code": [
        "DE89370400440532013001", "DE8937040044053201300", "ZZ89370400440532013000", "DE89 37040044 0532013000",
        "de89370400440532013000", "XDE89370400440532013000",
    ],
    "secret": [
        "AKIA" + "IOSFODNN7EXAMPL", "ghp_short1", "sk-learn and sk-image", "task-" + "a1" * 20, "hf_transfer",
        "eyJhbGciOiJIUzI1NiJ9.abc", "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----", "a" * 64, "0" * 64,
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow",
    ],
}  # fmt: skip
AROUND = [
    ("", ""),
    ("So: ", "."),
    ("(", ")"),
    ("\n", "\n"),
    ("é", ", é"),
    ("«", "»"),
    ("电话：", "。"),
    ("x" * 126 + " ", " "),
]


def column_of(*texts: str) -> TextColumn:
    return TextColumn(pa.array(texts, pa.large_string()))


def redacted(*texts: str, **settings: object) -> list[str]:
    return redact(column_of(*texts), PiiSettings.model_validate(settings)).texts.to_pylist()


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_is_replaced_wherever_it_stands(kind: str) -> None:
    for text in POSITIVE[kind]:
        for before, after in AROUND:
            assert redacted(before + text + after) == [f"{before}<{kind.upper()}>{after}"], text


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_looks_like_it_stays(kind: str) -> None:
    for text in NEGATIVE[kind]:
        for before, after in (("", ""), ("So ", " it is.")):
            assert redacted(before + text + after, kinds=[kind]) == [before + text + after], text


def test_kinds_are_replaced_only_where_named_and_by_what_is_named() -> None:
    text = "me@example.org or +49 30 901820"
    assert redacted(text, kinds=["phone_number"]) == ["me@example.org or <PHONE_NUMBER>"]
    assert redacted(text, placeholders={"email_address": "e-mail"}) == ["e-mail or <PHONE_NUMBER>"]
    with pytest.raises(ValidationError):
        PiiSettings(kinds=())
    assert get_args(PiiKind) == KINDS


def test_counts_are_by_kind_and_skipped_documents_keep_their_place() -> None:
    column = column_of("a@b.org c@d.org", "none", "e@f.org", "8.8.8.108 a@b.org")
    found = redact(column, PiiSettings())
    assert (found.counts, found.num_documents) == ({"email_address": 4, "ip_address": 1}, 3)
    skipped = redact(column, PiiSettings(), skip_D=np.array([False, True, True, False]))
    assert skipped.texts.to_pylist() == [
        "<EMAIL_ADDRESS> <EMAIL_ADDRESS>", "none", "e@f.org", "<IP_ADDRESS> <EMAIL_ADDRESS>"
    ]  # fmt: skip
    assert skipped.counts == {"email_address": 3, "ip_address": 1}


def test_texts_without_any_come_back_as_the_very_array() -> None:
    column = column_of("nothing 2026", "", "at all -- nothing")
    assert redact(column, PiiSettings()).texts is column.texts
    assert redact(column_of(), PiiSettings()).texts.to_pylist() == []


def test_more_matches_than_expected_are_all_found() -> None:
    texts = [" ".join(f"a{n}@b.org" for n in range(700)), "x", "y@z.org " * 900]
    counts = np.diff(find(column_of(*texts), range(len(KINDS))).doc_offsets)
    assert counts.tolist() == [700, 0, 900]
    whole = pa.array(["c@d.org", *texts], pa.large_string())
    assert np.diff(find(TextColumn(whole[1:]), range(len(KINDS))).doc_offsets).tolist() == [700, 0, 900]


def checked(kind: str, text: str) -> bool:
    return redacted(text, kinds=[kind]) == [f"<{kind.upper()}>"]


def test_addresses_agree_with_the_standard_library() -> None:
    rng = random.Random(1)
    v4 = [".".join(str(rng.choice([0, 1, 9, 10, 100, 127, 168, 172, 192, 198, 203, 224, 255, 16, 51, 113, 256, 64]))
                   for _ in range(4)) for _ in range(3000)]  # fmt: skip
    groups = ["2001", "2a00", "db8", "0", "1", "ffff", "3fff", "200", "1ff", "20000", "g", "fe80"]
    v6 = ["".join(rng.choice(groups) + rng.choice([":", ":", ":", "::"]) for _ in range(rng.randint(2, 8)))[:-1]
          for _ in range(3000)]  # fmt: skip
    found = [checked("ip_address", text) for text in v4 + v6]
    assert found == [slow_pii.is_public_address(text) for text in v4 + v6]
    assert sum(found[:3000]) > 300
    assert sum(found[3000:]) > 40


def test_cards_agree_with_luhn() -> None:
    rng = random.Random(2)
    numbers = [f"4{rng.randrange(10**15):015d}" for _ in range(2000)] + [
        f"37{rng.randrange(10**13):013d}" for _ in range(1000)
    ]
    found = [checked("credit_card", text) for text in numbers]
    assert found == [slow_pii.is_card(text) for text in numbers]
    assert 200 < sum(found) < 400


def test_ibans_agree_with_the_checksum_of_the_standard() -> None:
    rng = random.Random(3)
    codes = [f"DE{rng.randrange(100):02d}{rng.randrange(10**18):018d}" for _ in range(3000)]
    codes += [f"GB{rng.randrange(100):02d}WX{rng.choice('YZ')}Q{rng.randrange(10**14):014d}" for _ in range(3000)]
    found = [checked("iban_code", text) for text in codes]
    assert found == [slow_pii.is_iban(text) for text in codes]
    assert sum(found) > 20


def test_emails_agree_with_their_regular_expression() -> None:
    rng = random.Random(4)
    pieces = [
        "me",
        "a.b",
        "x-y",
        "@",
        "@ex.",
        "@ex.",
        "@ex.org",
        "me@ex.",
        ".",
        "-",
        "_",
        "org",
        "co1",
        "c",
        "é",
        " ",
        "+",
    ]
    texts = ["".join(rng.choices(pieces, k=rng.randint(2, 6))) for _ in range(4000)]
    found = [checked("email_address", text) for text in texts]
    assert found == [slow_pii.is_email(text) for text in texts]
    assert sum(found) > 50


def test_a_planted_item_is_found_in_any_text_at_any_place() -> None:
    rng = random.Random(6)
    items = [(kind, text) for kind in KINDS for text in POSITIVE[kind]]
    texts, expected = [], []
    for text in slow_twins.random_texts(8, 300):
        words = text.split()
        kind, item = rng.choice(items)
        place = rng.randint(0, len(words))
        clean = [redacted(" ".join(part))[0] for part in (words[:place], words[place:])]
        if clean != [" ".join(words[:place]), " ".join(words[place:])]:
            continue
        texts.append(" ; ".join([clean[0], item, clean[1]]))
        expected.append(" ; ".join([clean[0], f"<{kind.upper()}>", clean[1]]))
    assert len(texts) > 200
    assert redacted(*texts) == expected


def test_addresses_of_small_numbers_count_where_a_word_says_that_they_are_some() -> None:
    for before in (
        "DNS server: ", "ping ", "IP=", "the address is ", "host\t", "servers=", "version 2 of the server at ",
        "server (", "<host>", "the host ", "hosts 10.0.0.1 and ",
    ):  # fmt: skip
        assert redacted(f"{before}8.8.8.8.", kinds=["ip_address"]) == [f"{before}<IP_ADDRESS>."], before
    for text in (
        "8.8.8.8", "server version 8.8.8.8", "the ship 8.8.8.8", "IP:\n8.8.8.8", "zip 3.8.11.1", "ping 10.0.0.1",
        "the server, as it is told in the long section 8.8.8.8", "ping v8.8.8.8", "section 8.8.8.8",
        "SQL Server 9.0.2.4 is old", "Server 2.4.1.9 released", "at the server 8.8.8.8", "Servers are running 9.0.2.4",
        "the host is now running kernel 2.6.3.9", "Server: Apache/2.4.1.9",
        "IP and then many other words that say nothing 8.8.8.8",
    ):  # fmt: skip
        assert redacted(text, kinds=["ip_address"]) == [text]


def test_aws_secret_keys_are_found_after_their_name_alone() -> None:
    key = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"
    assert len(key) == 40
    for before, after in (
        ("aws_secret_access_key = ", "\n"), ('{"SecretAccessKey": "', '"}'), ("AWS_SECRET_ACCESS_KEY=", ""),
        ("<SecretAccessKey>", "</SecretAccessKey>"), ("Secret access key: ", "."), ("--secret-access-key ", " --x"),
    ):  # fmt: skip
        assert redacted(before + key + after) == [f"{before}<SECRET>{after}"], before
    for text in (
        key, f"key = {key}", f"aws_secret_access_key = {key}x", f"aws_secret_access_key = {key[1:]}",
        f"secret_access_key of the other account, then {key}", f"aws_access_key = {key}",
    ):  # fmt: skip
        assert redacted(text, kinds=["secret"]) == [text]
