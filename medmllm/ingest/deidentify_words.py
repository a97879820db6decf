"""Words that the scrubbing of notes has to know: what is no name, what is one, and what opens a name.

Small lists on purpose: names are found by what stands around them (a title, a signature, a label) and by what the
study's own headers, folders and label table tell; these lists only keep those rules from taking clinical words.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TITLES = (
    r"Drs?\.?|Prof\.?|Professor|Mr\.?|Mrs\.?|Ms\.?|Miss|Mister|Messrs\.?|Sir|Dame|Herrn?|Frau|Frl\.?|Mme\.?|Monsieur|"
    r"Madame|Señora?|Sra?\.|Dott\.?(?:ssa)?|Dottor(?:e|essa)?|[Dd]octor|[Nn]urse|Docteur|Dra\.?|Doña|Dña\.|Sig\.ra|"
    r"Signora?|"
    r"drs?\.?|[Mm]evrouw|[Mm]w\.|[Dd]e heer|Fru|Pani|Sayın|Oberarzt|Oberärztin|Chefarzt|Chefärztin|"
    r"(?<!\d )(?<!\d)Hrn?\.|[DdHh]hr\.?|[Mm]evr\.?|Dres\.|i\.[ ]?A\.|Mlle\.?|Schwester|Pfleger|[Gg]ez\."
)
CREDENTIALS = (
    r"M\.?D\.?|D\.O\.|Ph\.?D\.?|R\.?N\.?|FRCR|FACR|MBBS|MBChB|PA-C|NP|CRNP|DNP|M\.?Sc\.?|MRCP|"
    r"FRANZCR|FRCPC|DABR|APRN|ARNP|R\.?T\.?\(R\)"
)
PARTICLES = "van|von|de|del|della|di|da|den|der|ten|ter|zu|la|le|el|al|bin|ibn|Mc|Mac|O'|St."
SIGNATURES = (
    "dictated by", "signed by", "electronically signed by", "signed electronically by", "read by", "reported by",
    "interpreted by", "reviewed by", "approved by", "verified by", "transcribed by", "performed by", "referred by",
    "requested by", "ordered by", "attending", "attending physician", "attending radiologist", "radiologist",
    "resident", "fellow", "technologist", "referring physician", "requesting physician", "ordering physician",
    "physician", "patient name", "patient's name", "name of patient", "surname", "first name", "last name",
    "next of kin", "contact", "dictator", "author", "patientin", "nachname",
    "vorname", "befunder", "untersucher", "zuweiser", "unterschrift", "hausarzt", "hausärztin", "überweiser",
    "zuweisender arzt", "überweisender arzt", "befundet von", "erstellt von", "diktiert von", "huisarts",
    "médecin traitant", "family doctor", "emergency contact", "pt name", "referrer", "surgeon", "guarantor",
    "sonographer", "radiographer", "attending md", "referring md", "ordering md", "referring provider",
    "ordering provider", "nom", "prénom", "radiologue", "nombre", "apellidos", "radiólogo", "cognome", "medico",
    "médico", "naam", "radioloog", "navn", "namn", "nazwisko", "imię i nazwisko", "adı soyadı", "hasta adı", "signed",
    "dictated", "prepared by", "authenticated by", "attested by", "finalized by", "report by",
    "transcriptionist", "operator", "assistant", "anesthesiologist", "freigegeben von",
    "freigegeben durch", "validiert von", "arzt", "ärztin", "signé par", "médecin demandeur", "firmado por",
    "médico solicitante", "refertato da", "aanvrager", "verslag door", "lekarz opisujący", "lekarz kierujący",
    "врач", "фио",
)  # fmt: skip
"""What stands before a name with a colon; those with "by" also without."""

FIRST_NAMES = _words(
    """
    james john robert michael william david richard joseph thomas charles christopher daniel matthew anthony
    donald steven paul andrew joshua kenneth kevin brian george edward ronald timothy jason jeffrey ryan jacob
    gary nicholas eric jonathan stephen larry justin scott brandon benjamin samuel gregory alexander patrick
    raymond dennis jerry tyler aaron jose adam nathan henry douglas zachary peter kyle walter ethan jeremy
    harold keith christian roger noah gerald carl terry sean austin arthur lawrence jesse dylan bryan joe jordan
    billy bruce albert willie gabriel logan alan juan wayne roy ralph randy eugene vincent russell louis philip
    bobby johnny mary patricia jennifer linda elizabeth barbara susan jessica sarah karen lisa nancy betty
    margaret sandra ashley kimberly emily donna michelle carol amanda dorothy melissa deborah stephanie rebecca
    sharon laura cynthia kathleen amy angela shirley anna brenda pamela emma nicole helen samantha katherine
    christine debra rachel carolyn janet catherine maria heather diane ruth julie olivia joyce virginia victoria
    kelly lauren christina joan evelyn judith megan andrea cheryl hannah jacqueline martha gloria teresa ann
    sara madison frances kathryn janice jean abigail alice julia judy sophia denise marilyn amber danielle
    brittany diana hans klaus jürgen günter wolfgang helmut heinz werner horst dieter uwe manfred gerhard stefan
    andreas matthias markus thorsten jens sven ursula monika petra sabine renate helga karin brigitte ingrid
    erika gisela elke heike susanne birgit claudia anke katrin giovanni giuseppe luigi pierre jacques françois
    marie carlos miguel luis ana lucia ivan olga dmitri mohammed muhammad ahmed ali hassan fatima aisha wei yan
    priya raj jane anne simon oliver
    """
)
"""Common given names that are no clinical or everyday word: one of these before another capitalised word is a name."""

NEVER_NAMES = _words(
    """
    a about abdomen abdominal abnormal above absent acute addendum adjacent age aged all also an and angiogram
    anterior any aorta aortic are arm artery as assessment at atrophy axial back background bilateral biopsy
    birth bladder blood body bone bowel brain breast but by calcified cancer cardiac care case center central
    cervical chest chief child chronic clear clinic clinical colon comment comments compared comparison
    complaint computed conclusion contrast coronal cough ct current data date daughter day days delivered
    department details diagnosis differential discussed disease doctor dr during ed effusion emergency ent er
    evaluate evaluation evidence exam examination eye face female fever final finding findings focal followup
    for foot fracture from gallbladder general gray grey hand he head hospital heart her hip his history home
    however hx icu if image images imaging impression in indication indications information into is it joint
    kidney knee large lateral left leg lesion liver long lower lung lungs male man mass may medial medical
    medication medications method middle mild mother mr mri ms multiple name neck negative neuro new no node
    none normal not note notes ob ob-gyn gyn obgyn of office old on operation or oral orbit our out outside pain
    pancreas past pathology patient patients pelvic pelvis pet phone physical physician plan please posterior
    present previous prior probable procedure prostate pt question radiologist radiology reason recent
    recommendation referral report reports resident result results review right sagittal scan section see seen
    series service sex she signed sinus skin skull small social soft son spine spleen spoke study subject
    summary superior surgery surgical symptoms system technique telephone test that the there they this thoracic
    thorax thyroid time tissue to today transverse trauma treatment tumor tumour ultrasound under unknown
    unremarkable upper urgent us uterus vein verified view views visit was we weight were when which white who
    with without woman wrist x xxxx xray year years young your yellow brown black green wood stone june july
    august march april monday tuesday wednesday thursday friday saturday sunday befund beurteilung klinik
    anamnese fragestellung technik indikation diagnose patientin untersuchung vorbefund project projects dataset
    datasets dicom nifti raw train training validation cohort group batch export import archive control controls
    baseline healthy site centre session scanner upload share leber herz kopf zahn stein kern haut hals bauch brust
    rippe bein milz lunge nase knie schulter finger
    """
)
"""Words that are no name wherever they stand: a name ends before one of them."""

SURNAMES = _words(
    "bein black brown day gray green grey hand head herz kern kopf leber long march may old page small stein stone "
    "white wood young yellow zahn"
)
"""Of these the ones that many people are called: a name right behind a title, a signature or a first name."""

ALSO_WORDS = _words(
    """
    wall cross sharp blunt horn root cord stem lobe marrow ball field fields line lines low high short free fine close
    still best better power read mark means base band bands rule plain tear gross grade strong rice park ray nail gall
    little light bright broad rush hill banks block post point points fall falls major minor noble rich sample self
    early will gene iris olive rose hope drew crystal summer winter miles pat art frank max rod dean chase grant
    klein lang kurz frei stark jung alt neu weiss schwarz braun rot rund spitz scharf hoch tief mild fein klar ganz mai
    sommer petit grand gros blanc noir brun court fort droit gauche delgado blanco rojo negro izquierdo derecho moreno
    grande largo costa cabeza campos campo cuello pie media medio testa lungo piccolo grasso bianco sacco fossa direito
    branco groot wit zwart hart been kara küçük büyük uzun sağlam
    """
)
"""Words of reports that people are also called: known names where they are capitalised and open no sentence."""

TRADE_WORDS = frozenset({
    "original", "primary", "secondary", "derived", "axial", "localizer", "mosaic", "standard", "projection",
    "diffusion", "perfusion", "magnitude", "helical", "reformatted", "philips", "siemens", "healthineers", "medical",
    "systems", "electric", "general", "toshiba", "canon", "hitachi", "fujifilm", "hologic", "carestream", "corporation",
    "healthcare",
})  # fmt: skip
"""Words of headers in which a name may stand by chance: not every Philip is a Philips."""

NO_ANSWERS = (
    "yes|no|none|nope|hm|sorry|alright|actually|yeah|yep|well|okay|ok|oh|hi|hello|hey|sure|thanks|thank|right|um|"
    "uh|hmm|maybe|so|and|but|not|i|it|"
    "supine|prone|ambulatory|outpatient|inpatient|pregnant|obese|alert|awake|stable|oriented|unstable|intubated|"
    "sedated|deceased|unknown|male|female|adult|child|ja|nein|see|same"
)
"""What follows "Patient:" and is no name: the answers of a conversation, and states."""

NO_PLACES = "ct|mr|chest|head|brain|abdomen|pelvis|units?|platelets|cells|patients?|cases|slices|images|days|copies"
"""What follows five digits that are no postcode."""

EPONYM_NOUNS = (
    "disease|syndrome|sign|tumou?r|cyst|node|nodule|lymphoma|fracture|deformity|thyroiditis|ophthalmopathy|esophagus|"
    "oesophagus|hernia|duct|pouch|reflex|reaction|stage|stent|catheter|tube|drain|test|score|classification|criteria|"
    "malformation|sequence|murmur|staging|sarcoma|angle|scale|protocol|prosthesis|bandage|dressing|traction|"
    "forceps|aneurysm|contusion|lesion|spot|matter|granuloma|palsy|chorea|encephalopathy|angina|arthropathy|"
    "morbus|diverticulum|gland|ligament|canal|line|lines|rings?|body|bodies|space|procedure|operation|anaemia|anemia"
)
"""What makes the word before it a disease, even where the patient is called like it."""

UNITS = (
    "mm|cm|ml|cc|mg|mcg|ug|g|kg|l|dl|hu|kv|kvp|mas|mgy|msv|mbq|mci|bpm|mmhg|iu|units?|cells?|copies|/|%|"
    "µg|µl|ul|pg|ng|mmol|meq|kbq|bq|ms|hz|mhz|slices?|frames?|x"
)
"""What makes a long number a measurement."""
