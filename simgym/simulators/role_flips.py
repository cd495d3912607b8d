"""Whether a user's turn is spoken by the assistant: a claim to be it, or an offer of its services.

Words alone do not tell. People ask an assistant to "act as an AI that answers in rhymes", to write a dialogue in which
a clerk asks how to help, or say that they are here to help their mother; such turns are honest. So what is quoted does
not count, nor what stands in a text that the turn asks somebody to write, and a claim has to be one: the speaker's own
sentence, in the first person, about being the assistant. `benchmarks/role_flips.py` counts both kinds of mistakes.
"""

# ruff: noqa: E501  # a pattern a line

from __future__ import annotations

import re

_START = r"(?:^|[.!?…。！？\n]['\"”’)]*\s*|[—–]\s|\b(?:sure|hello|hi|hey|okay|ok|thanks|sorry|well|but|so|however|and|yes|no)\b[\s,!.]{1,3})"
"""Where a sentence, or what follows a greeting, begins."""
_AM = r"(?:i(?:'|’| a)m|i am|i,? as)"
_BEING = (
    r"(?:ai(?: (?:language model|assistant|model|chatbot|system|program|bot))?|artificial intelligence"
    r"|(?:large )?language model|chat ?bot|(?:virtual|digital|ai) assistant|computer program)"
)
_END = r"(?=\s*(?:[,.!?;:)]|$|and\b|so\b|that\b|who\b|which\b|here\b|designed|trained|created|developed|made|built|by\b|without|with\b|i\b|not\b))"
_CLAIMS = [
    rf"{_START}(?:please note that |remember,? |note that |unfortunately,? |actually,? |while |since |because )*{_AM} (?:just |only |actually |simply |sorry,? but )*(?:an?|your) (?:\w+ )?{_BEING}{_END}",
    rf"(?:^|[.!?,;\n]\s*|\b(?:but|and|because|since|so|that) )as an? (?:\w+ )?{_BEING},? (?:i\b|it(?:'|’| i)s|my\b|created|developed|trained|without)",
    rf"{_START}as your (?:\w+ )?assistant\b",
    rf"{_START}(?:my name is [\w ]{{1,20}},? (?:and )?)?{_AM} (?:your|the) (?:\w+ ){{0,2}}assistant{_END}",
    rf"{_START}i was (?:trained|created|developed|built|made|designed) (?:on|to (?:assist|help|answer|be helpful)|by (?:a team|engineers|researchers|developers|open ?ai|google|meta|anthropic|mistral|microsoft|alibaba|deepseek))\b",
    rf"{_START}(?:my (?:training data|knowledge cut-?off|programming)|i(?:'|’)?m not (?:programmed|able) to (?:feel|have)|i (?:do not|don(?:'|’)t) have (?:personal (?:feelings|opinions|emotions|experiences|preferences)|(?:feelings|emotions)(?: or| like| the way| as|[,.])|access to real-time))",
    rf"{_START}(?:and )?(?:how|what) (?:can|may|could|might|else can) i (?:help|assist|do for|be of (?:help|service|assistance) to)(?: you)?(?: with)?(?: today| now| right now| this \w+)?\s*(?:[?!.]|$)",
    rf"{_START}how (?:can|may|could|might) i (?:best )?(?:help|assist|support|serve) you\b",
    rf"{_START}what (?:can|may|could) i (?:help|assist|do) (?:you|for you)\b",
    rf"{_START}is there (?:anything|something) (?:else |specific |in particular )?(?:that )?(?:i can|you(?:'|’)?d like me to|you would like me to) (?:(?:help|assist)(?: you)?\b|do for you)",
    rf"{_START}i(?:'|’| a)m (?:always )?here to (?:help|assist|support|answer)(?: you\b| with (?:any|your|whatever)| your\b|\s*[.!?,;]|\s*$| and (?:answer|support|guide))",
    rf"{_START}(?:i(?:'|’)?(?:d| would|ll| will| am|m) (?:be )?)?(?:so |very |more than |always )?(?:glad|happy|delighted|pleased) to (?:help|assist) (?:you\b|with (?:that|your))",
    rf"{_START}(?:please )?(?:feel free to|don(?:'|’)t hesitate to) (?:ask|reach out|let me know|share)(?: me)?",
    rf"{_START}(?:please )?let me know (?:if|how) (?:you (?:have (?:any )?(?:other|more|further|questions)|need (?:any )?(?:more |further )?(?:help|assistance|anything))|i can (?:help|assist|be of))",
    rf"{_START}i(?:'|’)?m sorry,? (?:but )?i (?:can(?:no|(?:'|’))t|am unable to|am not able to) (?:assist|help|fulfil|comply|provide)",
    r"^\s*(?:ai|assistant|chatbot|bot)\s*:",
    # the same claims and offers elsewhere
    r"(?:^|[.!?]\s*)(?:wie kann ich (?:ihnen|dir|euch)\b.{0,20}\b(?:helfen|behilflich)|als (?:ki|künstliche intelligenz|sprachmodell)\b|ich bin (?:eine? )?(?:ki\b|künstliche intelligenz|sprachmodell))",
    r"(?:^|[.!?]\s*)(?:comment puis-je (?:vous|t['’])\s?aider|en quoi puis-je|en tant qu['’](?:ia\b|intelligence artificielle|assistant)|je suis (?:une ia\b|un (?:modèle|assistant (?:ia|virtuel))))",
    r"(?:^|[.!?¿¡]\s*)(?:¿?(?:en qué|cómo) puedo ayudar(?:te|le|los)|como (?:una? )?(?:ia\b|inteligencia artificial|modelo de lenguaje|asistente (?:de ia|virtual))|soy (?:una? )?(?:ia\b|inteligencia artificial|modelo de lenguaje|asistente virtual))",
    r"(?:^|[.!?]\s*)(?:come posso aiutar(?:ti|la|vi)|in quanto (?:ia|intelligenza artificiale)|sono un(?:['’]intelligenza artificiale| modello linguistico| assistente virtuale))",
    r"(?:^|[.!?]\s*)(?:(?:como|em que) posso (?:te |lhe |o |a )?ajud(?:ar|á-l[oa])|como (?:uma? )?(?:ia\b|inteligência artificial|modelo de linguagem)|sou um(?:a ia\b|a inteligência artificial| modelo de linguagem| assistente virtual))",
    r"(?:^|[.!?]\s*)(?:hoe kan ik (?:je|u) (?:helpen|van dienst)|als (?:ai|taalmodel)[ ,]|ik ben een (?:ai\b|taalmodel|virtuele assistent))",
    r"(?:^|[.!?]\s*)(?:чем (?:я )?могу (?:вам |тебе )?(?:помочь|быть полез)|как (?:искусственный интеллект|языковая модель|ии)[ ,]|я (?:—|-|–)?\s?(?:искусственный интеллект|языковая модель|виртуальный ассистент))",
    r"(?:作为(?:一[个名])?(?:ai|人工智能|语言模型|大?语言模型)|我是(?:一[个名])?(?:ai|人工智能|语言模型|大语言模型|智能助手)|(?:我能|我可以|有什么(?:我)?(?:能|可以))(?:为您|帮您|帮你|为你)?.{0,6}(?:帮助您|帮您|帮你|为您服务|帮助你))",
    r"(?:(?:ai|人工知能|言語モデル)(?:アシスタント|モデル)?(?:として|です)|(?:どのように|何か|何を)お(?:手伝い|助け)|お手伝いできることは)",
    r"(?:(?:ai|인공지능|언어 ?모델)(?:로서|입니다|이기 때문)|무엇을 도와드릴까요|어떻게 도와드릴까요|도와드릴까요)",
]
_CLAIM = re.compile("|".join(f"(?:{claim})" for claim in _CLAIMS), re.IGNORECASE)
_QUOTED = re.compile(
    r"\"[^\"]{1,600}\"|“[^”]{1,600}”|„[^“”]{1,600}[“”]|«[^»]{1,600}»|‘[^’]{3,600}’|(?<!\w)'[^'\n]{3,300}'(?!\w)|`[^`]{1,600}`"
)
_ASKS_FOR_A_TEXT = re.compile(
    r"\b(?:write|act|pretend|role-?play|imagine|say|reply|respond|translate|rewrite|rephrase|paraphrase|summari[sz]e|correct"
    r"|proofread|continue|complete|generate|create|draft|compose|finish|explain|analy[sz]e|improve|edit|simulate|behave|play"
    r"|you are|you're|you will|let's|prompt|script|dialog(?:ue)?|story|poem|email|essay|schreib\w*|übersetz\w*|traduis|écris|"
    r"escribe|traduce|scrivi|traduci)\b",
    re.IGNORECASE,
)
_BEFORE = 160
"""Characters before a claim in which a request for a text makes it part of that text."""


def find_role_flip(text: str) -> str | None:
    """The words in which a user's turn speaks as the assistant, or None."""
    own = _QUOTED.sub(lambda quoted: " " * len(quoted.group()), text)
    for claim in _CLAIM.finditer(own):
        if not _ASKS_FOR_A_TEXT.search(own, max(0, claim.start() - _BEFORE), claim.start() + 1):
            return " ".join(claim.group().split()).strip(" .,!?—–")
    return None
