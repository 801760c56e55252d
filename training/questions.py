"""Questions made from sentences by rule: one part of a sentence becomes the thing asked for.

No parser: regular expressions find dates, places, numbers, subjects and objects; an auxiliary moves to the front where
one is near. The questions are rough English, which is enough to teach what a question word asks for; some words are
dropped or replaced, so that copying by overlap alone does not win.
"""
import random
import re

MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
DATE = (r"(?:(?:%s) \d{1,2}, \d{4}|\d{1,2} (?:%s) \d{4}|(?:%s) \d{4}|\d{4}|the (?:early |late |mid-)?\d{4}s"
        r"|the (?:early |late |mid-)?\w+ century)" % (MONTH, MONTH, MONTH))
NAME = r"(?:[A-Z][\w.’'-]+(?: (?:of |the |de |von |van )?[A-Z][\w.’'-]+){0,4})"
WHEN = re.compile(r"(?:^|,? )(?:[Ii]n|[Oo]n|[Bb]y|[Ss]ince|[Ff]rom|[Uu]ntil|[Aa]round) (%s)\b,?" % DATE)
WHERE = re.compile(r" (?:in|at|near|from|to) ((?:the )?%s)" % NAME)
NUMBER = (r"(?:\d[\d,.]*\d|\d|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|fifty)"
          r"(?: (?:hundred|thousand|million|billion))?")
COUNT = re.compile(r"(?:^| )((?:about |over |nearly |almost |more than |approximately |around |some |at least )?%s)"
                   r" ((?:[a-z-]+ )?[a-z]{3,}s)\b" % NUMBER)
PERCENT = re.compile(r" ((?:about |over |nearly |approximately )?\d[\d.]*(?:%| percent| per cent))")
MONEY = re.compile(r" ((?:US|A|C)?[$£€]\d[\d.,]*(?: (?:million|billion|thousand))?)")
AGENT = re.compile(r"^(.{3,80}?) (was|were|is|are|been) (\w+(?:ed|en|wn|nt|ht|lt|ld|de)) (.{0,60}?)\bby ((?:the )?%s)" % NAME)
WHY = re.compile(r"^(.{15,120}?),? (because|due to|in order to|so that|as a result of|owing to) (.{8,})$")
SUBJECT = re.compile(r"^((?:The |A |An )?[A-Z][^,;:()]{1,45}?) (was|were|is|are|has|had|can|could|would|will) (.{10,})$")
IRREGULAR = {
    "began": "begin", "became": "become", "wrote": "write", "made": "make", "took": "take", "gave": "give",
    "won": "win", "led": "lead", "left": "leave", "held": "hold", "built": "build", "found": "find", "ran": "run",
    "went": "go", "came": "come", "saw": "see", "grew": "grow", "fell": "fall", "rose": "rise", "met": "meet",
    "lost": "lose", "sold": "sell", "bought": "buy", "brought": "bring", "taught": "teach", "thought": "think",
    "fought": "fight", "sent": "send", "spent": "spend", "kept": "keep", "chose": "choose", "drew": "draw",
    "knew": "know", "threw": "throw", "flew": "fly", "spoke": "speak", "broke": "break", "drove": "drive",
    "got": "get", "said": "say", "told": "tell", "felt": "feel", "meant": "mean", "stood": "stand",
    "understood": "understand", "paid": "pay", "laid": "lay", "bore": "bear", "wore": "wear", "sang": "sing",
    "sank": "sink", "struck": "strike", "shot": "shoot", "sought": "seek", "caught": "catch", "ate": "eat"}
VERB = re.compile(r"^((?:The |A |An )?[A-Z][^,;:()]{1,45}?) ([a-z]+ed|%s) (.{6,})$" % "|".join(IRREGULAR))
ISA = re.compile(r"^((?:The |A |An )?[A-Z][^,;:()]{1,40}?)(?: \([^)]*\))?,? (is|was|are|were) (?:an?|the|one of) .{12,}$")
PRONOUN = re.compile(r"^(He|She|It|They|His|Her|Its|Their|This|These)\b")
AUX = re.compile(r"^(.{2,60}?) (was|were|is|are|has|had|have|can|could|would|will|did) (.*)$")
SYNONYMS = {
    "began": ["started"], "started": ["began"], "begin": ["start"], "created": ["made", "produced"],
    "founded": ["established", "started"], "established": ["founded", "set up"], "built": ["constructed"],
    "constructed": ["built"], "won": ["received"], "received": ["got", "was given"], "died": ["passed away"],
    "located": ["situated", "found"], "used": ["employed", "utilized"], "called": ["named", "known as"],
    "known": ["called"], "large": ["big"], "largest": ["biggest"], "biggest": ["largest"], "important": ["significant"],
    "many": ["numerous"], "several": ["a number of"], "moved": ["relocated"], "children": ["kids"],
    "film": ["movie"], "movie": ["film"], "country": ["nation"], "nation": ["country"], "people": ["persons"],
    "city": ["town"], "near": ["close to"], "helped": ["assisted"], "purchased": ["bought"], "bought": ["purchased"],
    "released": ["put out", "issued"], "published": ["released", "printed"], "wrote": ["authored"],
    "discovered": ["found"], "increased": ["grew"], "declined": ["fell"], "ended": ["finished"],
    "attacked": ["assaulted"], "defeated": ["beat"], "killed": ["slain"], "destroyed": ["ruined"],
    "produce": ["make"], "produced": ["made"], "contains": ["includes", "has"], "include": ["contain"],
    "includes": ["contains"], "became": ["turned into"], "become": ["turn into"], "appointed": ["named", "chosen"],
    "approximately": ["about", "around"], "about": ["around"], "primary": ["main"], "main": ["primary", "chief"],
    "first": ["earliest"], "also": [""], "however": [""], "originally": ["at first"], "currently": ["now"],
    "university": ["college"], "battle": ["fight"], "war": ["conflict"], "law": ["legislation"],
    "company": ["firm"], "firm": ["company"], "population": ["number of people"], "required": ["needed"],
    "showed": ["demonstrated"], "allowed": ["permitted"], "caused": ["led to"], "following": ["after"],
    "prior": ["before"], "obtained": ["got"], "remained": ["stayed"], "formed": ["made up"], "border": ["boundary"]}
STOP = set("a an the of in on at to for and or but by with from as is was were are be been that this these those it its "
           "his her their he she they who which what when where how why did do does has had have not no into than then "
           "also such other some any all both after before during between over under about there can could would will "
           "may might must if so up out one two".split())


class Maker:
    def __init__(self, seed, counts):
        self.random = random.Random(seed)
        self.counts = counts  # lower-case word → how often it occurs in lower case

    def lemma(self, verb):
        if verb in IRREGULAR:
            return IRREGULAR[verb]
        stem = verb[:-2]
        forms = [stem, stem + "e"]
        if len(stem) > 3 and stem[-1] == stem[-2]:
            forms.append(stem[:-1])
        if stem.endswith("i"):
            forms.append(stem[:-1] + "y")
        return max(forms, key=lambda form: self.counts.get(form, 0))

    def lower_first(self, text):
        first = re.match(r"\w+", text)
        if first and self.counts.get(first[0].lower(), 0) > 50 and (first[0].lower() in STOP or not text[:1].isupper()
                                                                   or len(first[0]) < 3):
            return text[0].lower() + text[1:]
        return text

    def ask(self, wh, body):
        """wh + the body with its auxiliary in front; a past tense becomes did + verb."""
        body = body.strip(" ,.;:")
        match = AUX.match(body)
        if match and len(match[1].split()) <= 9:
            return "%s %s %s %s" % (wh, match[2], self.lower_first(match[1]), match[3])
        match = VERB.match(body)
        if match and len(match[1].split()) <= 8:
            return "%s did %s %s %s" % (wh, self.lower_first(match[1]), self.lemma(match[2]), match[3])
        return "%s %s" % (wh, self.lower_first(body))

    def shorten(self, body):
        """At most two clauses, so that a question rarely repeats a whole sentence."""
        clauses = [clause.strip() for clause in re.split(r"[,;:()]| – | — ", body) if clause.strip()]
        if len(body.split()) <= 14 or len(clauses) < 2:
            words = body.split()
            return " ".join(words[:self.random.randint(10, 18)])
        first = clauses[0]
        if len(first.split()) >= 8 or self.random.random() < 0.3:
            return " ".join(first.split()[:16])
        return " ".join((first + " " + clauses[self.random.randrange(1, len(clauses))]).split()[:18])

    def candidates(self, sentence, title, person):
        pick = self.random.choice
        text = sentence.rstrip(" .!?")
        if PRONOUN.match(text) and title:
            word = PRONOUN.match(text)[1]
            tail = "'s" if word in ("His", "Her", "Its", "Their") else ""
            if word not in ("This", "These"):
                text = title + tail + text[len(word):]
        who = "Who" if person else pick(("What", "What", "Who", "Which"))
        found = []
        match = WHEN.search(text)
        if match:
            body = self.shorten(text[:match.start()] + " " + text[match.end():])
            if re.fullmatch(r"\d{4}", match[1]):
                wh = pick(("When", "When", "In what year", "What year", "In which year"))
            else:
                wh = pick(("When", "When", "On what date" if re.search(r"\d{1,2}", match[1]) else "In what century"))
            found.append((self.ask(wh, body), match[1]))
        match = WHERE.search(text)
        if match and not re.match(MONTH, match[1]):
            body = self.shorten(text[:match.start()] + " " + text[match.end():])
            found.append((self.ask(pick(("Where", "Where", "In what city", "In what country", "In which place")), body),
                          match[1]))
        match = COUNT.search(text)
        if match:
            body = self.shorten(text[:match.start()] + " " + text[match.end():])
            found.append((self.ask("How many " + match[2], body), match[1]))
        for pattern, words in ((PERCENT, ("What percentage", "What percent", "How much")),
                               (MONEY, ("How much money", "How much", "What amount"))):
            match = pattern.search(text)
            if match:
                body = self.shorten(text[:match.start()] + " " + text[match.end():])
                found.append((self.ask(pick(words), body), match[1]))
        match = AGENT.match(text)
        if match:
            found.append((pick(("Who %s %s?" % (match[3], self.lower_first(match[1])),
                                "Who %s %s %s by?" % (match[2], self.lower_first(match[1]), match[3]),
                                "By whom %s %s %s?" % (match[2], self.lower_first(match[1]), match[3]))), match[5]))
        match = WHY.match(text)
        if match:
            found.append((self.ask("Why", match[1]), match[3]))
        match = SUBJECT.match(text)
        if match and len(match[1].split()) <= 7:
            found.append(("%s %s %s" % (who, match[2], self.shorten(match[3])), match[1]))
        match = VERB.match(text)
        if match and len(match[1].split()) <= 7:
            if self.random.random() < 0.5:
                found.append(("%s %s %s" % (who, match[2], self.shorten(match[3])), match[1]))
            else:
                keep = match[3].split()
                cut = self.random.randint(0, min(3, len(keep) // 2))
                tail = " ".join(keep[-cut:]) if cut else ""
                found.append(("What did %s %s %s" % (self.lower_first(match[1]), self.lemma(match[2]), tail),
                              " ".join(keep[:4])))
        match = ISA.match(text)
        if match and len(match[1].split()) <= 6 and self.random.random() < 0.5:
            found.append(("%s %s %s" % ("Who" if person else "What", match[2], self.lower_first(match[1])), text[-30:]))
        return found

    def noise(self, question):
        words = question.split()
        out = []
        for number, word in enumerate(words):
            bare = word.lower().strip(",.?'\"")
            if number > 1 and bare in SYNONYMS and self.random.random() < 0.4:
                word = self.random.choice(SYNONYMS[bare])
                if not word:
                    continue
            elif number > 2 and self.random.random() < (0.13 if bare not in STOP else 0.06):
                continue
            out.append(word)
        return " ".join(out)

    def make(self, sentence, title, person=False):
        """(question, answer string) or None."""
        found = self.candidates(sentence, title, person)
        if not found or self.random.random() < 0.06:
            words = [w.strip(",.;:()\"'") for w in sentence.split()]
            words = [w for w in words if w.lower() not in STOP and len(w) > 2]
            if len(words) < 5:
                return None
            count = self.random.randint(3, min(6, len(words)))
            start = self.random.randint(0, len(words) - count)
            chosen = words[start:start + count] if self.random.random() < 0.5 else [
                words[i] for i in sorted(self.random.sample(range(len(words)), count))]
            return " ".join(chosen), chosen[0]
        question, answer = self.random.choice(found)
        question = re.sub(r"\s+", " ", self.noise(question)).strip(" ,.;:?")
        if len(question.split()) < 4 and self.random.random() < 0.7 and title and title not in question:
            question += " " + self.random.choice(("of", "in", "about")) + " " + title
        elif title and title.lower() not in question.lower() and self.random.random() < 0.12:
            question += " in " + title
        if self.random.random() < 0.22:
            return question.lower(), answer
        return question + "?", answer
