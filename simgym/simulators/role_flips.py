"""Whether a user turn is spoken by the assistant: the speaker claims to be one, or offers its services.

What counts is who speaks, not which words occur. "As an AI, I cannot taste coffee" is the assistant's; "act as an AI",
"write a scene in which a clerk asks how can I help you" and "I'm here to help my mother" are a person's. So a claim
has to be made in the first person where a sentence or clause begins, outside of quotation marks and code; what follows
a request to write or to play something, or the words of a third person, is not the speaker's own. Languages other
than English have the commonest claims only. `benchmarks/role_flips.py` measures both kinds of mistakes.
"""

# ruff: noqa: E501  # an alternative a line

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

_QUOTED = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\"[^\"]*\"|“[^”“]*”|„[^“”„]*[“”]|«[^»«]*»|「[^」「]*」|『[^』『]*』", re.DOTALL
)
_SENTENCE = re.compile(r"[^.!?。！？¿¡]+[.!?。！？]*")
_MOST_CLAUSES = 100
"""Of one sentence; bounds the time that hostile text can take."""
_CLAUSE = re.compile(r"[,;，；]\s*|(?<!\s)\s+[-–—]+\s+|(?<!\s)\s+(?=(?:and|but|so|since|because|while)\b)")
_LABEL = re.compile(
    r"\s*(?:[*_#>\s]*(?:assistant|ai[ ]assistant|chatbot|chatgpt)[*_\s]*:|[*_#>\s]*ai[*_\s]*:(?!.*\?\s*$)|ASSISTANT\s+[-–])",
)
_OTHER_LABEL = re.compile(
    r"^\W{0,9}(?:user|human|customer|client|person|me|you|[qa])\W{0,9}:", re.IGNORECASE | re.MULTILINE
)

_TOPIC = re.compile(r"\s*(?:build|find|how|what|why|an?\b[^.!?]*\?)")
"""What follows a heading ("Chatbot: build one in Python") rather than a speaker's name; in small letters."""
_COMPOSE = r"""(?:act|pretend|imagine|suppose|assume|role-?play|play|behave|respond|reply|answer|speak|talk|write|
    re-?write|compose|draft|generate|create|make|give|invent|translate|proofread|correct|paraphrase|rephrase|reword|
    summari[sz]e|continue|complete|simulate|design|come\ up|start|begin|open|end|read|classify|edit|improve|describe|
    say|use|add|take|turn|fix|analy[sz]e|explain|repeat|include|consider)"""
_REQUEST = re.compile(
    rf"""\W*(?:(?:ok(?:ay)?|hi|hey|hello|now|then|so|and|please|next|first|just)\b\W*)*
    (?:(?:can|could|would|will)\ you\ (?:please\ )?|i(?:'d|\ would)?\ (?:want|need|like)\ you\ to\ |help\ me\ (?:to\ )?|
       let(?:'s|\ us)\ |you\ (?:should|will|must|have\ to|need\ to|are\ (?:going|supposed)\ to)\ |
       your\ (?:task|job|role|goal)\ is\ to\ |from\ now\ on,?\ (?:you\ )?)?(?:please\ )?(?:{_COMPOSE}\b|
       (?:you\ are|you're)\ (?:now\ )?(?:an?|my|the)\b|tell\ me\ an?\b|how\ (?:do|would)\ (?:you|i)\ say|what\ does\b)
    | .*\b(?:schreib|übersetz|formulier|stell\ dir\ vor|spiel|écri[stv]|tradui|imagine|agis|joue|escrib|actúa|traduc|
       imagina|scriv|traduci|fingi|escrev|traduz|finja|atue|schrijf|vertaal|doe\ alsof|напиши|переведи|представь|притвор|
       yaz\b|çevir|napisz|przetłumacz|udawaj)
    | .*(?:扮演|假装|写一|翻译|模拟|ふりをし|翻訳|書いて|써\ ?줘|번역|연기)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_OF_IT = re.compile(
    r"\b(?:write|translate|proofread|correct|rephrase|reword|paraphrase|improve|shorten|use)\ (?:that|this|it)\b",
    re.IGNORECASE | re.VERBOSE,
)
"""A request about what was said before it, which therefore is not the speaker's own."""
_SPEAKING = r"""\b(?:asks?|asked|sa(?:y|ys|id|ying)|tells?|told|writes?|wrote|repl(?:y|ies|ied)|answer(?:s|ed)?|greets?|
    greeted|claims?|claimed|starts?|begins?|opens?|called|reads?|goes|(?:is|was|be|are|were)\ like)\b"""
_REPORTED = re.compile(rf"\b(?:if|whether|suppose|imagine)\b|:|{_SPEAKING}", re.IGNORECASE | re.VERBOSE)
_ANNOUNCED = re.compile(rf"{_SPEAKING}[^:]{{0,80}}:", re.IGNORECASE | re.VERBOSE)

_LEAD = r"""\W{0,9}(?:(?:hi|hello|hey|dear|there|greetings|welcome|good\ (?:morning|afternoon|evening|day)|yes|no|yeah|sure|
    sure\ thing|certainly|absolutely|definitely|of\ course|alright|all\ right|ok(?:ay)?|great|well|oh|ah|right|thanks?|
    thank\ you|so|and|but|because|since|while|although|however|unfortunately|though|again|then|now|please|sorry|i(?:'m|\ am)\ (?:very\ |
    really\ |so\ )?sorry|i\ apologi[sz]e|my\ apologies|i(?:'m|\ am)\ afraid|remember|note|(?:keep|bear)\ in\ mind|
    that|also|anyway|actually|honestly|you're\ welcome|no\ problem|perfect|got\ it|i\ see|i\ understand|sir|ma'am)\b\W{0,9}){0,6}"""
_I_AM = r"i(?:'m|\ am)(?:\ (?:just|only|simply|merely|actually|still|also|indeed|afraid|in\ fact|but))*"
_MACHINE = r"""(?:an?\ |the\ |your\ |this\ )?(?:(?:advanced|helpful|friendly|humble|simple|mere|new|very|own|powerful|
    sophisticated|large|small|online|little|open[- ]source)\ |text-based\ )*(?:(?:ai|a\.i\.|artificial\ intelligence|artificially\ intelligent|llm|
    language\ model|chat\ ?bot|computer\ program|machine\ learning\ model|conversational\ agent)
    (?:[- ](?:powered|based))?(?:\ (?:large\ )?(?:language\ )?(?:model|assistant|chat\ ?bot|bot|system|program|agent|
    tutor|companion|entity|tool|helper|coach))?)"""
_YOURS = r"""your\ (?:(?:very|own|personal|virtual|digital|ai|friendly|helpful|new|online|automated|dedicated|travel|
    shopping|writing|study|language|fitness|cooking|math|english)\ )*(?:assistant|agent|tutor|guide|helper|concierge|
    chat\ ?bot|bot|coach|companion|advisor|adviser|ai)"""
_ENDS = r"""(?=\s*(?:$|[.,;:!?)(—–-]|(?:and|so|that|which|but|here|designed|trained|created|made|built|developed|
    programmed|without|with|by|from|today|for|on|i|not|ready|at|to|fine-?tuned)\b))"""
_BE_HELPED = r"(?=\s*(?:$|[.,;:!?]|(?:today|with|now|further|this|here|out|in|on|tonight|better|right|more|and|best|at|get\ started)\b))"
_CLAIMS = rf"""
    # what the speaker is
      {_I_AM}\ (?:{_MACHINE}|{_YOURS}){_ENDS}
    | (?:as|being)\ (?:{_MACHINE}|{_YOURS})(?:\ (?:trained|created|developed|made|designed|built)\b[^,.?!]{{0,80}}|\ like\ me)?
      (?:\s*[,;]\s*(?:(?!\byou\b)[^.?!]){{0,80}}?\b(?:i|my)\b|\s+(?:i|my)\b)
    | (?:as\ an?|{_I_AM}\ an?)\ (?:virtual|digital)\ assistant,?\ (?:so\ )?i\ (?:can't|cannot|don't|do\ not|am\ (?:not|un))
    | {_I_AM}\ (?:chatgpt|gpt-?\d|bing\ chat|deepseek|qwen|open\ ?assistant)\b
    | (?:{_I_AM}|my\ name\ is)\ \w+(?:\ \w+)?,\ (?:{_MACHINE}|{_YOURS}){_ENDS}
    | i(?:\ was|'m|\ am|\ have\ been|'ve\ been)\ (?:trained|created|developed|built|made|programmed|designed)\ (?:by|at|on|using|with)\b
      [^.!?]{{0,200}}\b(?:openai|anthropic|(?:google|meta|microsoft|mistral|alibaba)(?=\s*(?:$|[,.;!]|(?:and|to)\b))|text|data|dataset|corpus|books|internet)\b
    | i(?:\ was|'m|\ am)\ (?:trained|created|made|built)\ (?:by\ (?:a\ (?:team|group)\ of\ )?(?:engineers|developers|researchers)|
      to\ (?:assist|help|answer))
    | i(?:\ was|'m|\ am)\ (?:programmed|designed)\ to\ (?:help|assist|answer|provide|be)
    | my\ (?:knowledge\ cut-?\ ?off|(?:knowledge|training(?:\ data)?)\ (?:only\ )?(?:goes|ends|extends|stops|cuts|is\ limited)|
      (?:last|latest|most\ recent)\ (?:knowledge|training)\ update)
    | i\ (?:don't|do\ not)\ (?:have|possess)\ (?:any\ )?(?:personal\ (?:opinions|feelings|beliefs|emotions|preferences|experiences)|
      (?:feelings|emotions)\ (?:or\ (?:feelings|emotions)|(?:the\ way|as|like)\ (?:that\ )?(?:people|humans|you))|a\ (?:physical\ )?body(?!\ (?:like|as|that|which|of)\b)|access\ to\ real-time)
    | (?:it\ is|it's)?\ ?my\ (?:job|role|purpose|goal|function|task)\ (?:here\ )?(?:as\ {_YOURS}|is\ to\ (?:help|assist|serve)\ you)
    # offers of service
    | how\ (?:else\ )?(?:can|may|could|might|shall)\ (?:i|we)\ (?:best\ )?(?:help|assist|support|serve)\ you{_BE_HELPED}(?!,\ (?:my|dear|chatgpt|ai)\b)
    | how\ (?:else\ )?(?:can|may)\ (?:i|we)\ direct\ your\ call
    | (?:{_I_AM}\ )?(?:so\ |very\ |really\ )?glad\ (?:that\ )?(?:i|we)\ (?:could|can)\ (?:help|assist)\b
    | let\ me\ (?:help|assist)\ you\ with\ (?:that|this|your)\b
    | {_I_AM}\ \w+,\ an?\ (?:helpful|friendly)\ assistant\b
    | how\ (?:else\ )?(?:can|may)\ (?:i|we)\ (?:help|assist)(?:\ today|\ here|\ you)?\s*(?:$|[?!])
    | how\ (?:else\ )?(?:can|may|could|might)\ (?:i|we)\ be\ of\ (?:\w+\ )?(?:service|help|assistance)
    | what\ (?:else\ )?(?:can|may|could)\ (?:i|we)\ (?:help|assist)\ you\ with
    | what\ (?:else\ )?(?:can|may|could)\ (?:i|we)\ do\ for\ you(?=\s*(?:$|[?.!,]|(?:today|now|this|tonight)\b))
    | what\ (?:would\ you\ like|do\ you\ (?:need|want))\ (?:some\ |any\ |my\ )?(?:help|assistance)\ with
    | what\ brings\ you\ here
    | (?:is|was)\ there\ (?:anything|something)\ (?:else\ |more\ )?(?:that\ )?(?:you'd|you\ would)\ like\ me\ to
    | (?:please\ )?let\ me\ know\ (?:how|what)\ i\ (?:can|may)\ (?:help|assist|do\ for\ you)
    | (?:(?:is|was|are)\ there\ |if\ there(?:'s|\ is)\ )?(?:anything|something)\ (?:else\ |more\ )?(?:that\ )?(?:i|we)\ (?:can|could|may)\ (?:help\ you|assist\ you|do\ for\ you|
      (?:help|assist)\ with\s*[?.!])
    | let\ me\ know\ if\ (?:there(?:'s|\ is)\ anything\ (?:else\ |more\ )?(?:that\ )?i\ can\ (?:do|help|assist)|i\ can\ (?:help|assist)\ you|
      you(?:'d|\ would)?\ (?:need|have|like|want|require)\ (?:any\ |some\ )?(?:(?:further|more|additional|other|extra|of\ my)\ )?
      (?:help|assistance|support)|you\ have\ any\ (?:other|more|further|additional)\ questions(?!\ (?:about|on|for|regarding)\ (?:me|my|this|the|us|our)\b))
    | (?:should|if)\ you\ (?:ever\ )?(?:need|have|want|require|would\ like)\ (?:any\ )?(?:further|more|additional|other)\ (?:help|assistance|questions|support)
    | (?:(?:please\ )?(?:feel\ free|do\ not\ hesitate|don't\ hesitate)\ to\ (?:ask|reach\ out|contact)(?:\ to)?(?:\ me|\ us)?
      (?:\ anything|\ any\ ?time|\ at\ any\ time|\ if\ you\ (?:need|have))(?![^.!?]{{0,200}}(?:info|detail|clari|unclear|context|before|\ for\ |\bmy\b)))
    | {_I_AM}(?:\ always)?\ here\ to\ (?:help|assist|support|guide|serve|answer)(?:\s*$|\s*[.,!;:]|\ you\b(?!\ (?:improve|learn|test))|
      \ (?:with\ )?(?:any|whatever|anything|all|everything|your|that|this)\b|\ if\b|\ and\b|\ whenever\b|\ 24)
    | {_I_AM}\ here\ (?:for\ you\ )?(?:if|whenever)\ you\ (?:need|want|have)
    | (?:(?:i(?:'d|\ would|'ll|\ will)\ be|{_I_AM})\ )?(?:more\ than\ |very\ |always\ |so\ |really\ )?(?:happy|glad|delighted|pleased)\ to\ (?:help|assist|support)(?:\s*$|\s*[.,!;]|\ you\b(?!\ (?:by|debug|reproduce|understand|help\ me|if))|
      \ (?:with\ )?(?:that|this|your|any|all)\b|\ out\b|\ in\ any\ way)
    | i(?:'d|\ would|\ can|'ll|\ will|\ could)(?:\ be\ able\ to)?(?:\ \w+ly|\ of\ course|\ surely)?\ (?:help|assist)\ you\ with\ (?:that|this|your|any|anything|all)\b
    | i(?:\ can|'ll|\ will)\ (?:definitely|certainly|absolutely|gladly|surely|happily)\ (?:help|assist)(?:\ you\b|\s*[.!])
    | i(?:\ cannot|\ can\ not|\ can't|'m\ unable\ to|\ am\ unable\ to|\ am\ not\ able\ to|'m\ not\ able\ to|\ won't)\ (?:(?:help|assist)(?:\ you)?\ with\ (?:that|this|your|such|illegal|harmful)(?:\ (?:request|question|task|topic|matter|\w*\ ?activitie)s?)?(?=\s*(?:$|[.,!;]|as\b|because\b))|
      (?:fulfil|fulfill|comply\ with|complete|process|accommodate|provide\ assistance\ with)\ (?:that|this|your|such)(?:\ \w+)?\ requests?)
    | thank(?:s|\ you)\ for\ (?:contacting|reaching\ out|calling(?!\ (?:me|us)\ back)|choosing|visiting|getting\ in\ touch)
      (?:\s*$|\s*[.!,]|\ (?:to\ |with\ )?(?:us|me(?!\ (?:about\ (?:the|my|your)|yesterday|last|earlier|on)\b)|our|customer|support|technical|your)\b)
    | (?<=welcome\ )to\ (?:our|the|my)?\ ?(?:\w+\ ){{0,2}}(?:help\ ?desk|customer\ (?:service|support|care)|support\ (?:desk|chat|team|line))
    | would\ you\ like\ me\ to\ (?:help|assist|recommend|suggest|find|look|book|draft|search|generate|walk\ you|check|create)(?!\ (?:[^.!?]{{0,80}}\ )?my\b)(?!\ (?:at\ )?the\ (?:\w+\ ){{1,2}}(?:on|in|at|of)\b)
"""
_CLAIM = re.compile(rf"{_LEAD}(?:{_CLAIMS})", re.IGNORECASE | re.VERBOSE)
_SERVING = re.compile(
    r"\bso\ (?:that\ )?(?:i|we)\ can\ (?:better\ |best\ )?(?:help|assist|serve)\ you(?!\ (?:help\ me|understand))",
    re.IGNORECASE | re.VERBOSE,
)
_ELSEWHERE = re.compile(
    r"""
    # German, Dutch
      \bals\ (?:eine?\ )?(?:ki(?:-(?:assistent|(?:sprach)?modell|system|chatbot|bot))?|künstliche\ intelligenz|sprachmodell|virtueller\ assistent)\b(?<!forscher),?\ (?:\w+\ )?ich\b
    | \bals\ (?:eine?\ )?(?:ki-?(?:sprach)?modell|ki-?assistent|ki|sprachmodell|künstliche\ intelligenz),?\ (?:\w+\ ){1,2}ich\b
    | \bich\ bin\ (?:nur\ |bloß\ )?(?:eine?\ |dein\ |ihr\ )(?:\w+\ )?(?:ki(?:-assistent|-sprachmodell|-modell)?|sprachmodell|künstliche\ intelligenz|chatbot|
      virtueller\ assistent)\b(?!-)
    | \b(?:wie|womit)\ (?:kann|darf)\ ich\ (?:dir|ihnen|euch)\ (?:heute\ |sonst\ |noch\ |weiter\ )*(?:helfen(?!,?\ (?:mich|mir|meine?\w?)\b)|behilflich|weiterhelfen|dienen)
    | \bkann\ ich\ (?:sonst\ )?(?:noch\ )?(?:etwas|was)\ für\ (?:sie|dich)\ tun
    | \bals\ (?:een\ )?(?:ai(?:-\w+)?|(?:ai-)?taalmodel|kunstmatige\ intelligentie),?\ (?:\w+\ )?ik\b
    | \bik\ ben\ (?:slechts\ |maar\ )?(?:een|je|uw)\ (?:ai(?:-assistent)?|taalmodel|virtuele\ assistent|chatbot)\b
    | \b(?:hoe|waarmee)\ kan\ ik\ (?:je|u|jou)\ (?:vandaag\ |verder\ )?(?:helpen|van\ dienst)
    # French, Spanish, Italian, Portuguese
    | \ben\ tant\ qu(?:e\ |')(?:\w+\ )?(?:modèle\ de\ langage|ia|intelligence\ artificielle|assistant\ virtuel)\b[^.?!]{0,30}\bj(?:e\b|')
    | \bje\ (?:ne\ )?suis\ (?:qu')?(?:une?\ |votre\ |ton\ )(?:simple\ )?(?:ia|intelligence\ artificielle|modèle\ de\ langage|assistant\ virtuel|assistante\ virtuelle|chatbot)\b
    | \b(?:comment|en\ quoi)\ (?:puis-je|je\ peux)\ (?:vous|t')\ ?(?:aider|être\ utile)
    | \bpuis-je\ (?:vous|t')\ ?aider\ (?:avec|pour|à)\ (?:autre|quelque)
    | \bcomo\ (?:un\ |una\ |um\ |uma\ )?(?:modelo\ de\ (?:lenguaje|linguagem)|ia|inteligencia\ artificial|inteligência\ artificial|asistente\ virtual)\b[^.?!¿¡]{0,20},?\ (?:no|não|yo|eu)\b
    | \bsoy\ (?:solo\ )?(?:una?|tu|su)\ (?:ia|inteligencia\ artificial|modelo\ de\ lenguaje|asistente\ virtual|asistente\ de\ ia|chatbot)\b
    | \b(?:en\ qué|cómo)\ (?:puedo|te\ puedo|le\ puedo)\ (?:ayudarte|ayudarle|ayudarlo|ayudarla|ayudar\ hoy|ayudar\b(?=\s*\?)|asistirle)
    | \bhay\ algo\ más\ en\ lo\ que\ (?:pueda|puedo)\ ayudar
    | \b(?:estoy|sono|estou)\ (?:aquí|qui|aqui)\ (?:para|per)\ (?:ayudarte|ayudarle|aiutarti|aiutarla|ajudá-l[oa]|te\ ajudar)
    | \bin\ quanto\ (?:modello\ linguistico|ia|intelligenza\ artificiale)\b,?\ (?:non|io)\b
    | \bsono\ (?:solo\ )?(?:un'?\ ?|il\ tuo\ )(?:ia|intelligenza\ artificiale|modello\ linguistico|assistente\ virtuale|chatbot)\b
    | \b(?:come|in\ cosa)\ posso\ (?:aiutarti|aiutarla|esserle|esserti|aiutare\b(?=\s*\?))
    | \bsou\ (?:apenas\ )?(?:uma?|seu|sua)\ (?:ia|inteligência\ artificial|modelo\ de\ linguagem|assistente\ virtual|chatbot)\b
    | \b(?:como|em\ que)\ posso\ (?:te\ ajudar|ajudá|ajudar\ (?:você|o\ senhor|a\ senhora|hoje)|ajudar\b(?=\s*\?)|ser\ útil)
    # Russian, Polish, Turkish
    | \bя\s*(?:[—–-]\s*)?(?:всего\ лишь\ |просто\ )?(?:языковая\ модель|искусственный\ интеллект|ии(?:-ассистент)?|виртуальный\ (?:помощник|ассистент)|чат-бот)\b
    | \bкак\ (?:языковая\ модель|ии|искусственный\ интеллект),?\ я\b
    | \bчем\ (?:я\ )?(?:могу|можем)\ (?:я\ )?(?:вам|тебе)(?:\ \w+)?\ помочь|\bчем\ (?:я\ )?могу\ помочь(?=\s*[?.!]|\s*$)
    | \bw\ czym\ mogę\ (?:ci\ |panu\ |pani\ )?pomóc(?=\s*[?.!]|\s*$)|\bjako\ (?:model\ językowy|sztuczna\ inteligencja)\b
    | \bjestem\ (?:tylko\ )?(?:modelem\ językowym|sztuczną\ inteligencją|wirtualnym\ asystentem)\b
    | \b(?:size|sana)\ (?:bugün\ )?nasıl\ yardımcı\ olabilirim|\bben\ bir\ (?:yapay\ zeka|dil\ modeli)
    # Chinese, Japanese, Korean
    | 作为(?:一个|一名|一款|您的|你的)?(?:人工智能|ai|大?语言模型|虚拟助手)(?:语言模型|模型|助手|助理|系统|程序|机器人)?[，,、\ ]*(?:(?:很|非常)?(?:抱歉|遗憾)|对不起)?[，,、\ ]*我
    | 我(?:只)?是(?:一个|一名|一款|您的|你的)?(?:由\w+)?(?:人工智能|ai|大?语言模型|虚拟助手|智能助手|聊天机器人)(?:语言模型|助手|模型|助理)?(?=[，,。！!、；]|\s|$|，|可以|能|没有|不)
    | 有什么(?:我)?(?:可以|能)?(?:为|帮)(?:到|助)?[您你]|我(?:可以|能)(?:怎么|如何|为|帮)(?:助)?(?:您|你)(?:做|些|什么|服务|吗|[？?])|我(?:可以|能)(?:怎么|如何)帮(?:助)?[您你]
    | 很高兴为[您你]服务|(?:还)?有什么需要(?:我)?帮(?:忙|助)(?:的)?吗
    | 私は(?:単なる|ただの)?(?:ai|人工知能|言語モデル|大規模言語モデル|チャットボット)(?:アシスタント|言語モデル|モデル)?(?:です|なので|であり|として|に過ぎ)
    | (?:ai|人工知能|言語モデル)(?:アシスタント|言語モデル)?として、?(?:私は|個人的|お答え|感情)
    | (?:何か|どのように|他に)[^。？！]{0,8}お手伝い(?:でき|し(?:ましょう|ます))|ご用件(?:は|を)
    | (?:저는|나는)\ (?:단지\ )?(?:인공지능|ai|언어\ 모델|챗봇)(?:\ (?:언어\ 모델|비서|어시스턴트|모델))?(?:입니다|이라|이기|로서|이에요|이며)
    | (?:무엇을|어떻게|뭘)\ (?:도와드릴까요|도와\ 드릴까요|도와줄까요)
""",
    re.IGNORECASE | re.VERBOSE,
)


def find_role_flip(text: str) -> str | None:
    """The words with which the speaker of a turn claims the assistant's part, or None.

    Args:
        text: What a user is supposed to have said.

    Returns:
        The claim as written, at most 80 characters.
    """
    if (label := _label(text)) is not None:
        return label
    for sentence in _own_sentences(text.replace("’", "'")):
        if (claim := _claim_in(sentence)) is not None:
            return " ".join(claim.split())[:80]
    return None


def _label(text: str) -> str | None:
    """A role's name written before the turn, as in `Assistant: ...`; a whole pasted chat is not one."""
    first_line = text.lstrip().partition("\n")[0]
    match = _LABEL.match(first_line) or _LABEL.match(first_line.casefold())
    if match is None or _OTHER_LABEL.search(text) or _TOPIC.match(first_line, match.end()):
        return None
    return match[0].strip()


def _own_sentences(text: str) -> Iterator[str]:
    """Sentences up to the first request to write or play something, without what is quoted or announced by a colon.

    None at all if a later sentence asks for something to be done to an earlier one ("Can you write that as a reply?").
    """
    if any(_REQUEST.match(sentence) and _OF_IT.search(sentence) for sentence in _SENTENCE.findall(text)[1:]):
        return
    announced = False
    for line in _QUOTED.sub(" … ", text).splitlines():
        if not line.strip():
            continue
        spoken, announced = not announced, line.rstrip().endswith((":", "："))
        for sentence in _SENTENCE.findall(line):
            if _REQUEST.match(sentence):
                return
            announcement = _ANNOUNCED.search(sentence)
            if spoken:
                yield sentence if announcement is None else sentence[: announcement.end()]
            if announcement is not None:
                break


def _claim_in(sentence: str) -> str | None:
    """The claim with which a sentence, or one of its clauses, begins."""
    reported = _REPORTED.search(sentence)
    own = len(sentence) if reported is None else reported.start()
    clauses = (match.end() for match in _CLAUSE.finditer(sentence, 0, own))
    for start in itertools.chain((0,), itertools.islice(clauses, _MOST_CLAUSES)):
        if match := _CLAIM.match(sentence, start):
            return match[0]
    if match := _SERVING.search(sentence):
        return match[0]
    match = _ELSEWHERE.search(sentence)
    return match[0] if match is not None and match.start() <= own else None
