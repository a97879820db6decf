"""What identifiers look like in a note: numbers, dates, addresses, and names that something announces.

Patterns alone; `deidentify_note` says in which order they are asked and what is put in the place. A pattern with a
group `label` keeps what the label holds. English and German forms, and the commonest of other languages.
Runs of blanks, letters and repeated parts are bounded: a hostile text of a megabyte costs seconds, not hours.
"""

import re

from medmllm.ingest.deidentify_spelling import SPACELESS_LETTERS
from medmllm.ingest.deidentify_words import (
    CREDENTIALS,
    FIRST_NAMES,
    NO_ANSWERS,
    NO_PLACES,
    PARTICLES,
    SIGNATURES,
    TITLES,
    UNITS,
)

_MONTHS = (
    "jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch)?|märz?|apr(?:il)?|ma[yi]|jun[ei]?|jul[yi]?|aug(?:ust)?|"
    "sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?"
)
_MONTHS_ELSEWHERE = (  # Romance languages, Dutch, Nordic ones, Polish, Turkish, Russian: beside a year alone
    "mrz|janv(?:ier)?|f[ée]v(?:rier)?|mars|avr(?:il)?|juin|juil(?:let)?|ao[ûu]t|d[ée]c(?:embre)?|genn(?:aio)?|febbraio|"
    "marzo|aprile|maggio|giugno|luglio|agosto|settembre|ottobre|dicembre|enero|febrero|abril|mayo|junio|julio|"
    "septiembre|octubre|noviembre|diciembre|janeiro|fevereiro|março|maio|junho|julho|setembro|outubro|novembro|"
    "dezembro|januari|februari|maart|mei|augustus|octobre|novembre|septembre|marts|maj|augusti|desember|"
    "stycznia|lutego|marca|kwietnia|maja|czerwca|lipca|sierpnia|września|października|listopada|grudnia|"
    "ocak|şubat|mart|nisan|mayıs|haziran|temmuz|ağustos|eylül|ekim|kasım|aralık|"
    "января|февраля|марта|апреля|мая|июня|июля|августа|сентября|октября|ноября|декабря"
)
_ANY_MONTH = rf"(?:{_MONTHS}|{_MONTHS_ELSEWHERE})(?![^\W\d_])"
_OF = r"(?:(?:of|de|del|di|do|d['’])[ \t]{0,9})?"
MONTH_NUMBERS = {name: n for n, names in enumerate(
    ("jan", "feb", "mar mär mrz", "apr", "may mai", "jun", "jul", "aug", "sep", "oct okt", "nov", "dec dez"), 1
) for name in names.split()}  # fmt: skip
_VERB = r"\d{1,2}[ \t]{1,9}(?-i:may|MAY|mar|mars)[ \t]{1,9}[^\W\d_]"  # lesion 3 may compress
_DAY, _MONTH = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])"
_NO_LETTER = r"(?<![^\W\d_])"  # version v3.2.10, T1/2/12
_BIG = "A-Z" + "".join(filter(str.isupper, map(chr, (*range(0xC0, 0x180), *range(0x391, 0x430)))))  # capital letters
_INSIDE = r"[\w\u0300-\u036f'’-]"  # of a word: letters composed or not
_WHOLE = rf"[{_BIG}]{_INSIDE}{{0,40}}[^\W\d_][\u0300-\u036f]{{0,3}}"
_INITIALS = rf"[{_BIG}](?:\.-?[{_BIG}]){{0,3}}\.?(?=[\s,]|$)"
_NAME = rf"(?:(?:[{_BIG}]\.-?){{0,3}}{_WHOLE}|{_INITIALS})"  # a capitalised word, J.R.Smith, or initials
_NEXT = rf"(?!{_WHOLE}[ \t]{{0,3}}:){_NAME}"  # a word with a colon behind it labels what follows
_NAMES = rf"{_NAME}(?:[ \t]{{1,9}}(?:(?:{PARTICLES})[ \t]{{1,9}}){{0,3}}{_NEXT}){{0,3}}"


_CAPITALS = rf"[{_BIG}][{_BIG}'’-]{{1,40}}(?![^\W\d_])"
_FIRST = "|".join(sorted(FIRST_NAMES))


def _compiled(*patterns: str, flags: int = 0) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, flags) for pattern in patterns)


_NO_CASE = re.IGNORECASE
MAIL = _compiled(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
URL = _compiled(r"\b(?:https?://|ftp://|www\.)[^\s<>()]+[^\s<>().,;]", flags=_NO_CASE)
DATES = _compiled(
    r"(?<![\d.])(?P<year>(?:18|19|20)\d\d)[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})(?![\d])",
    r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<month>0[1-9]|1[0-2])(?P<day>0[1-9]|[12]\d|3[01])(?:[T_]?\d{4,6})?(?!\d)",
    rf"(?<!\d)(?<!\d\.)(?P<day>\d{{1,2}})(?:st|nd|rd|th|er|\.)?[ \t/-]{{0,9}}{_OF}(?P<name>{_ANY_MONTH})"
    rf"\.?,?[ \t/-]{{0,9}}{_OF}(?P<year>(?:18|19|20)\d\d)(?!\d)",
    rf"(?<!\d)(?<!\d\.)(?:0?[1-9]|[12]\d|3[01])(?:\.?[ ]?|-){_ANY_MONTH}\.?(?:[ ]|-|[ ]?['’])\d\d"
    rf"(?!\d|[.,:]\d|[ \t]{{0,9}}(?:{UNITS})\b|[ ]?%)",
    r"(?<!\d)(?<!\d[.])(?:0?[1-9]|[12]\d|3[01])(?:\.[ ]?|[/-])(?-i:I{1,3}|I?V|VI{1,3}|I?X|XI{1,2})(?:\.[ ]?|[/-])"
    r"(?:(?:18|19|20)\d\d|\d\d)(?!\d|[.,]\d)",
    rf"\b(?P<name>{_MONTHS})\b\.?[ \t-]{{1,9}}(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?[ \t-]{{1,9}}"
    r"(?P<year>(?:18|19|20)\d\d)\b",
    r"(?<![\d,/])(?<!\d\.)(?P<day>0?[1-9]|[12]\d|3[01])\.[ ]?(?P<month>0?[1-9]|1[0-2])\.[ ]?"
    r"(?P<year>(?:18|19|20)\d\d)(?!\d)",
    r"(?<![\d.,/-])\d{1,2}(?P<between>[/-])\d{1,2}(?P=between)(?:18|19|20)\d\d(?![\d/])",
    rf"(?P<short>){_NO_LETTER}(?<![\d.,/-])"
    rf"(?:{_DAY}/{_MONTH}/|{_MONTH}/{_DAY}/|{_DAY}-{_MONTH}-|{_MONTH}-{_DAY}-)\d\d(?![\d/])",
    rf"(?P<short>){_NO_LETTER}(?<![\d,/])(?<!\d\.){_DAY}\.{_MONTH}\.\d\d(?!\d|\.\d)",
    r"\d{4}[年년][ ]?\d{1,2}[月월](?:[ ]?\d{1,2}[日일])?|(?:明治|大正|昭和|平成|令和)\d{1,2}年\d{1,2}月(?:\d{1,2}日)?",
    r"(?<![\d.])(?:19|20)\d\d\.[ ](?:0?[1-9]|1[0-2])\.[ ](?:0?[1-9]|[12]\d|3[01])\.",
    rf"\b(?:{_ANY_MONTH})\.?,?[ \t]{{1,9}}(?:of[ \t]{{1,9}})?(?:18|19|20)\d\d\b",
    r"(?<![\d.,/])(?:0?[1-9]|1[0-2])/(?:19|20)\d\d(?![\d/])",
    rf"(?:\b(?:january|february|april|june|july|august|september|october|november|december)|(?:(?<=\bon )|(?<=\bof )|"
    rf"(?<=\bby )|(?<=\bin )|(?<=\bfrom )|(?<=\bsince )|(?<=\buntil ))(?:{_MONTHS}))[ \t]{{1,9}}\d{{1,2}}"
    rf"(?:st|nd|rd|th)?\b(?![ \t]{{0,9}}(?:{UNITS})\b)",
    rf"(?<![\w.])(?:(?<=\bon )|(?<=\bfrom )|(?<=\bsince )|(?!{_VERB}))"
    rf"\d{{1,2}}(?:st|nd|rd|th)?[ \t]{{1,9}}(?:of[ \t]{{1,9}})?(?:{_MONTHS})\b(?!\w)"
    r"(?![ \t]{1,9}(?:have|be|not|show|rep))",
    r"(?=\d)(?i:(?<=\bon )|(?<=\bdated )|(?<=\bfrom )|(?<=\bsince )|(?<=\bdate: )|(?<=\bvom ))"
    r"\d{1,2}/\d{1,2}(?![\d/]|[ \t]{0,9}(?:mm|cm|%))",
    flags=_NO_CASE,
)
SOCIAL = _compiled(
    r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])",
    r"(?<![\w.,/-])\d{6}(?:\d\d)?[-+]\d{4}(?![\w-])",  # Danish, Swedish: the birth date and four digits
    r"(?<![\w.,/-])\d{8}-?[A-HJ-NP-TV-Z](?!\w)",  # Spanish
    r"(?<![\w.])(?=[\d.]{20})[0-2](?:\.\d{1,39}){6,30}(?!\w)",  # a UID
)
PHONES = _compiled(
    r"(?<![\w/.])(?:\+|00)\d{1,3}[ \t./-]?(?:\(0?\)[ \t]?)?\(?\d{1,5}\)?(?:[ \t./-]?\d{2,5}){1,4}(?![\w/])",
    r"(?<![\w/.-])(?:1[-. ])?\(?\d{3}\)?[-. ]\d{3}[-. ]\d{4}(?![\w/.-]*\d)",
    rf"(?<![\w/.])0\d{{2,4}}[ ]?[/ -][ ]?\d{{3,8}}(?:[ -]?\d{{1,5}}(?!\d|[ ]?(?:{UNITS})\b)){{0,3}}(?![\w/])",
    r"(?<![\w/.-])0\d(?:[ .]\d\d){4}(?![\w/]|[.-]\d)",
    r"(?<![\w/.-])0\d{1,4}-\d{1,4}-\d{3,4}(?![\w/-])",
    r"(?P<label>\b(?:phone|t[ée]l[ée]phone|t[ée]l|fax|pager|beeper|cell|mobile?|telefon|telefax|handy|durchwahl|ext|"
    r"extension|tel[ée]fono|telefoon|tlf|gsm))"
    r"(?:\.?[ \t]{0,9}(?:no\.?|number|is|#)?[ \t]{0,9}[:#]?[ \t]{0,9})[+(]?\d[\d ()./-]{2,20}\d",
    flags=_NO_CASE,
)
LABELLED_IDS = _compiled(
    r"(?P<label>\b(?:SSN|social security(?: number| no\.?)?|NHS(?: number| no\.?)?)[ \t]{0,9}[:#]?[ \t]{0,9})"
    r"(?P<id>\d{3} \d{2,3} \d{4})(?!\d)",
    r"(?P<label>\b(?:MRN|M\.R\.N\.|medical record(?: number| no\.?)?|patient[ -]?(?:id|number|no\.?|nr\.?)|pat\.?[ -]?"
    r"(?:id|nr\.?)|acc(?:ession)?\.?[ ]?(?:number|no\.?|nr\.?|#)|accession|SSN|social security(?: number)?|account"
    r"(?: number| no\.?)?|case[ ](?:number|no\.?)|(?:fall|aufnahme)-?(?:nummer|nr\.?)|"
    r"(?:visit|encounter|job|report|document)[ ](?:id|number|no\.?)|insurance"
    r"(?: number| no\.?)|policy(?: number| no\.?)|order[ ](?:number|no\.?)|exam[ ](?:number|no\.?|id)|study[ ]id|"
    r"serial(?: number| no\.?)|licen[cs]e(?: number| no\.?)|device[ ]id|hospital[ ](?:number|no\.?)|NHS(?: number)?)"
    r"[ \t]{0,9}(?:is|was)?[ \t]{0,9}[:#=]?[ \t]{0,9}#?)"
    r"(?P<id>\d{1,3}(?: \d{3}){1,3}(?!\d)|(?=[\w./-]{0,40}\d)[A-Za-z0-9][\w./-]{0,40}\w)",
    flags=_NO_CASE,
)
LONG_IDS = _compiled(
    rf"(?<![\w.,/-])\d{{6,}}(?![\w-]|[.,]\d|[ \t]{{0,9}}(?i:{UNITS})\b|[ \t]{{0,9}}[/%µ])",
    r"(?<![\w.,/-])\d{6,}-\d{1,4}(?![\w-]|[.,]\d)",
    r"(?<![\w/-])[A-Z]{1,5}-?\d{5,}(?:[-/]\d+){0,5}(?!\w)",
    r"(?<![\w/.-])\d{2,4}-\d{5,}(?:-\d+)?(?![\w])",
    r"(?<![\w/-])[A-Z]{1,3}-?(?:19|20)?\d{2}-\d{3,}(?![\w])",
)
ADDRESSES = _compiled(
    r"(?<![\w.,/])\d{1,5}[a-zA-Z]?[ ]{1,9}(?:[NSEW]\.?[ ]|(?:North|South|East|West)[ ])?(?:[A-Z][a-z]+[ ]){1,3}"
    r"(?:Street|St\.|St(?=[,\n]|$)|Avenue|Ave\b\.?|Road|Rd\b\.?|Boulevard|Blvd\b\.?|Lane|Ln\b\.?|Drive|Court|Parkway|"
    r"Pkwy\b\.?|Place|Square|Terrace|Highway|Hwy\b\.?|Way)(?:,?[ ](?:Apt|Suite|Unit|Floor|#)\.?[ ]?\w+)?"
    r"(?:,?[ ]{1,9}[A-Z][a-z]+(?:[ ][A-Z][a-z]+)?,?[ ]{1,9}[A-Z]{2}(?!\w)(?:[ ]{1,9}\d{5}(?:-\d{4})?)?)?",
    r"(?<![\w.,/])\d{1,5}[ ](?:[A-Z]{2,}[ ]){1,3}(?:STREET|AVENUE|BOULEVARD|BLVD|ROAD|LANE|PARKWAY|HIGHWAY)\b\.?"
    r"(?:,?[ ][A-Z]{2,}(?:[ ][A-Z]{2,})?,?[ ][A-Z]{2}[ ]\d{5}(?:-\d{4})?)?",
    r"(?:\b[A-Z][a-z]{2,40}[ ])?\b(?:[BEGLMNSW]|[A-Z]{2})\d[A-Z\d]?[ ]\d(?!(?:HU|ST|ND|RD|TH)\b)[ABD-HJLNP-UW-Z]{2}\b",
    r"(?<![\w-])[A-ZÄÖÜ][a-zäöüß]{2,40}(?:-[A-ZÄÖÜ][a-zäöüß]{1,40}){0,3}-?"
    r"(?:straße|strasse|str\.|Straße|gasse|allee|platz|weg|ufer)[ ]"
    r"\d{1,4}[ ]?[a-z]?\b(?:,?[ ]{1,9}(?:[A-Z]{1,2}-)?\d{4,5}[ ]{1,9}[A-ZÄÖÜ][\wäöüß-]+)?",
    r"\b(?:\d{1,4},?[ ]{1,9})?(?:(?:[Rr]ue|[Bb]oulevard|[Cc]alle|[Pp]iazza|[Pp]laza)[ ](?:(?:de|du|des|la|le|della|del|"
    r"di)[ ]){0,3}|Via[ ](?:(?:della|del|di)[ ])?|[Pp]lace[ ](?:(?:de|du|des|la|le)[ ]){1,3})"
    r"[A-ZÀ-Þ][\w'-]{1,40}(?:[ ][A-ZÀ-Þ][\w'-]{1,40})?,?[ ]\d{1,4}\b",
    # via and place are English words: via Foley 16, place Stent 5
    r"\bvia[ ](?:(?:della|del|di)[ ])?[A-ZÀ-Þ][\w'-]{1,40}(?:[ ][A-ZÀ-Þ][\w'-]{1,40})?,?[ ]\d{1,4}(?=,[ ]\d{5}\b)",
    r"\b\d{1,4},?[ ]{1,9}(?:bis[ ]{1,9})?[Rr]ue[ ](?:(?:de|du|des|la|le|l')[ ]?){0,3}"
    r"[A-ZÀ-Þ][\w'-]{1,40}(?:[ ][A-ZÀ-Þ][\w'-]{1,40})?",
    r"\bP\.?[ ]?O\.?[ ]Box[ ]\d+",
    r"\b[A-Z][a-z]+,[ ]{1,9}[A-Z]{2}[ ]{1,9}\d{5}(?:-\d{4})?\b",
    r"\b(?:[A-Z]{1,2}-)\d{4,5}[ ]{1,9}[A-ZÄÖÜ][\wäöüß-]+",
    rf"(?m)(?:^|(?<=[,;|] )|(?<=\baus )|(?<=\bin ))(?!\d\d000)\d{{5}}[ ](?:(?:Bad|Sankt|St\.|Groß|Klein|"
    rf"Neu|Alt)[ ])?(?!(?i:{NO_PLACES})\b)[A-ZÄÖÜ][a-zäöüß]{{2,40}}(?:-[A-ZÄÖÜ][a-zäöüß]{{1,40}})?(?![\w-])",
)
AGES = _compiled(
    r"(?<![\d.])(?P<age>\d{2,3})(?=[ \t-]{0,9}(?:years?|yrs?|y\.?[ ]?o\b|y/o|yo\b|jahre?|jährig|ans\b|"
    r"años|anni\b|anos\b|jaar|år|yaş|歳|岁|세))",
    # above these a number before F is a fever, one before M meters
    r"(?<![\d.])(?P<age>(?-i:9[0-6](?=[ ]?F)|9\d(?=[ ]?M)|1[01]\d(?=M)))"
    r"(?=[ ]?[MF][ ](?:with\b|who\b|presenting\b|w/|s/p|h/o))",
    r"(?=\d)(?i:(?<=\balter )|(?<=\balter: )|(?<=\bâge )|(?<=\bâge : )|(?<=\bedad )|(?<=\bedad: )|(?<=\bleeftijd: )|"
    r"(?<=\betà )|(?<=\betà: )|(?<=\bage )|(?<=\bage: )|(?<=\bage of )|(?<=\baged ))(?P<age>\d{2,3})(?!\d|\.\d)",
    flags=_NO_CASE,
)
_SIGNATURES = "|".join(sorted(SIGNATURES, key=len, reverse=True))
_SIGNED_BY_WORDS = "|".join(words for words in SIGNATURES if words.endswith("by"))
TITLED = re.compile(
    rf"(?P<label>\b(?:{TITLES})(?:[ ]{{1,9}}(?:{TITLES}|(?:med|h\. ?c|rer\. ?nat)\.?)){{0,5}}"
    r"(?:[ \t]{1,9}|(?<=\.)(?:[ \t]{0,9}\n[ \t]{0,9})?))"
    rf"(?P<name>(?!(?:{TITLES})(?![^\W\d_]))(?:(?:{PARTICLES})[ ]){{0,3}}{_NAMES})"
)
TITLED_MANY = re.compile(
    rf"(?P<label>\b(?:Drs|Dres|Profs|Messrs|Doctors)\.?[ ]{{1,9}})"
    rf"(?P<name>{_NAMES}(?:(?:,[ ]|/|,?[ ](?:and|und|et|y|e|en|&)[ ]){_NAMES}){{1,9}})"
)
TITLED_IN_CAPITALS = re.compile(  # one word behind first names and initials: in capitals, all words look like names
    rf"(?P<label>\b(?:DRS?|PROF)\.[ \t]{{0,9}}(?:\n[ \t]{{0,9}})?)"
    rf"(?P<name>(?:(?:[A-Z]\.?|(?i:{_FIRST}))[ ]{{1,9}}){{0,2}}{_CAPITALS})"
)
SIGNED = re.compile(
    rf"(?P<label>(?i:(?:\b(?:{_SIGNATURES})(?:[ \t]{{0,9}}by)?|(?:^|[|;,])[ \t]{{0,9}}name)[ \t]{{0,9}}:[ \t]{{0,9}}"
    rf"(?:(?:{TITLES})[ ]{{1,9}})?))(?P<name>{_NAMES}(?:[,/][ \t]{{0,9}}{_NAMES})?)",
    re.MULTILINE,
)
SIGNED_BY = re.compile(rf"(?P<label>(?i:\b(?:{_SIGNED_BY_WORDS})[ \t]{{1,9}}))(?P<name>{_NAME}[ ]{_NAMES})")
CREDITED = re.compile(
    rf"(?P<label>)(?P<name>(?<![\w'’-])(?:{_WHOLE},[ ]{_WHOLE}(?:[ ]{_INITIALS})?|{_NAMES}))(?:"
    rf"(?P<comma>,)(?=[ ]{{1,9}}(?:{CREDENTIALS}|DO(?![ ][A-Z]))(?!\w))|(?=[ ]{{1,9}}(?:{CREDENTIALS})(?!\w)))"
)
FIRST_AND_LAST = re.compile(  # ANA and ALI are an antibody and an injury, Ann Arbor stages lymphomas
    rf"(?P<label>)(?P<name>(?<![\w'’-])(?<!Charcot )(?!ANA |ALI |(?i:ann arbor)\b)(?=[A-ZÀ-Þ])(?i:{_FIRST})"
    rf"(?:[ ][A-Z]\.)?[ ](?:(?:{PARTICLES})[ ]){{0,3}}[A-ZÀ-Þ][\w'-]{{1,40}})"
)
PATIENT_IS = re.compile(
    rf"(?P<label>\b[Pp](?:atient(?:in)?|t)\.?[ ])(?P<name>(?!{_INSIDE}{{0,40}}[{_BIG}]{{2}}){_WHOLE}[ ]{_WHOLE})"
)
_BIRTH = (
    r"(?:[,;][ \t]{0,3}|[ \t]{1,3})\(?(?:[*][ ]?[\[\d]|"
    r"(?i:geb|geboren|born(?![ ](?:at|via|by|with|full|pre)|[ ]\d{1,2}[ ](?:days|weeks|months))|dob|d\.o\.b|née?|nee|"
    r"nat[oa]|nacid[oa])\b)"
)
PATIENT_NAMED = re.compile(
    rf"(?P<label>\b(?:[Pp]at(?:ient(?:in|e)?)?\.?|PAT(?:IENT)?|Pt\.?|[Pp]a[cz]iente|[Pp]acjent(?:ka)?|[Hh]asta|"
    rf"[Пп]ациент(?:ка)?)"
    rf"[ \t]{{0,3}}:[ \t]{{0,9}})"
    rf"(?P<name>(?!(?i:{NO_ANSWERS})\b)"
    rf"{_WHOLE}(?:(?:[ ]{_WHOLE})?,[ ]?(?:{_WHOLE}|[{_BIG}]\.)(?![ ]?\w)|"
    rf"[ ]{_WHOLE}(?=[ \t]*$)|(?=[ \t]*$|{_BIRTH}|[ \t]*[,;(][ \t]*(?i:\[|\d|male|female|[mfwd]\b))))",
    re.MULTILINE,
)
BORN = re.compile(
    rf"(?P<label>)(?P<name>(?<!{_INSIDE})(?!Pat(?:ient(?:in)?)?\b)"
    rf"{_WHOLE}(?:,?[ ](?:(?:{PARTICLES})[ ]){{0,3}}{_NAME}){{1,3}})(?={_BIRTH})"
)
WITHOUT_SPACES = re.compile(
    rf"(?P<label>(?:患者名|患者姓名|氏名|姓名|报告医师|报告医生|审核医师|审核医生|読影医|"
    rf"환자명|성명|이름|판독의)[ ]{{0,3}}[:：]\s?)"
    rf"(?P<name>[{SPACELESS_LETTERS}]{{2,6}}"
    rf"(?:[ \u3000・][{SPACELESS_LETTERS}]{{1,6}}(?![{SPACELESS_LETTERS}]{{0,6}}[ ]?[:：]))?)"
)
WITH_CARETS = re.compile(
    rf"(?P<label>)(?P<name>(?<![\w^.])(?:\d[\w-]{{0,20}}\^{{1,4}})?"  # the number of a physician, in HL7
    rf"[^\W\d_]{_INSIDE}{{1,40}}(?:\^{{1,4}}[^\W\d_]{_INSIDE}{{0,40}}){{1,4}})"
)
NAMED = (
    WITHOUT_SPACES, WITH_CARETS, SIGNED, SIGNED_BY, TITLED_MANY, TITLED, TITLED_IN_CAPITALS, CREDITED, BORN,
    PATIENT_NAMED, PATIENT_IS, FIRST_AND_LAST,
)  # fmt: skip
"""What announces a name, in the order in which it is asked."""
