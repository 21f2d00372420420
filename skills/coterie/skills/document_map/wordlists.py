"""Word lists: the words that say nothing about a document, and those that give a language away."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STOP_WORDS = _words(
    """
    a about above after again against all also although always am an and another any are aren't as at be
    because been before being below between both but by can can't cannot could couldn't did didn't do does
    doesn't doing don't done down during each either else etc even ever every few first for from further get
    gets given gives go had has hasn't have haven't having he her here hers him his how however i if i'm in
    into is isn't it it's its itself just last least less let like made make makes many may maybe me might
    more most much must my need needs neither never no nor not nothing now of off often on once one only
    onto or other others otherwise our out over own per possible rather really same see set should shouldn't
    since so some something still such take than that that's the their them themselves then there these they
    they're thing this those through thus to too two under until up upon us use used uses using usually very
    via want was wasn't way we well were weren't what whatever when where whether which while who whole whom
    whose why will with within without won't would wouldn't yet you your and as assert async await break
    class continue def del elif else except false finally for from global if import in is lambda none
    nonlocal not or pass raise return true try while with yield self cls args kwargs int str len bool dict
    list tuple object
    """
)

LANGUAGE_WORDS: dict[str, frozenset[str]] = {
    "de": _words("der die das und ist nicht ein eine zu den von mit sich auf für wird auch werden"),
    "en": _words("the of and to is in that for it this be with are not as by or if an"),
    "es": _words("el la los las de que y en un una es por con para del se al como más"),
    "fr": _words("le la les des et est une du que dans pour qui pas sur au avec ce sont"),
    "it": _words("il lo gli di che è un per non con del della sono come più nel alla"),
    "pt": _words("o os das do da que em um uma não para com por mais como dos ao é"),
}
