"""What simulated conversations are about: questions, searches and findings of people who study genes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Search:
    """A search for genes, and what it is called when it stands in a strategy."""

    name: str
    title: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Topic:
    """What one conversation is about. Findings may be told in any order, each once for an answer."""

    title: str
    organism: str
    questions: tuple[str, ...]
    searches: tuple[Search, ...]
    findings: tuple[str, ...]
    citations: tuple[str, ...]


def _organism(organism: str) -> Search:
    return Search("GenesByTaxon", organism, {"organism": [organism]})


def _text(expression: str, organism: str) -> Search:
    parameters = {
        "text_expression": expression,
        "text_search_organism": [organism],
        "text_fields": ["product", "name", "GOTerms"],
    }
    return Search("GenesByText", f'Text "{expression}"', parameters)


def _domain(accession: str, title: str) -> Search:
    parameters = {"domain_database": "PFAM", "domain_typeahead": [accession], "domain_accession": "N/A"}
    return Search("GenesByInterproDomain", title, parameters)


def _go_term(term: str, title: str) -> Search:
    parameters = {"go_term_evidence": ["Curated", "Computed"], "go_term_slim": "No", "go_typeahead": [term]}
    return Search("GenesByGoTerm", title, parameters)


_SIGNAL_PEPTIDE = Search("GenesWithSignalPeptide", "Signal peptide", {"signalp_min_score": "0.5"})
_MEMBRANE = Search("GenesByTransmembraneDomains", "Membrane spanning", {"min_tm": "1", "max_tm": "12"})
_SMALL_PROTEINS = Search(
    "GenesByMolecularWeight",
    "Up to 60 kDa",
    {"min_molecular_weight": "5000", "max_molecular_weight": "60000"},
)
_NOT_IN_HUMANS = Search(
    "GenesByOrthologPattern",
    "No human ortholog",
    {"phyletic_term_map": "rnor,hsap", "profile_pattern": "%hsap:N%", "included_species": "pfal"},
)

ORTHOLOGS = Search("GenesByOrthologs", "Orthologs", {"isSyntenic": "no"})
"""Takes the result of another search to a further organism."""

TOPICS = (
    Topic(
        title="Druggable kinases of the blood stages",
        organism="Plasmodium falciparum 3D7",
        questions=(
            "Which protein kinases of P. falciparum are expressed in the asexual blood stages?",
            "Can you leave out the kinases that have a close human ortholog?",
            "Which of these kinases have been knocked out, and was the parasite viable?",
            "How many of them are essential in the piggyBac saturation screen?",
            "Please add the FIKK family and compare it with the calcium-dependent kinases.",
        ),
        searches=(
            _domain("PF00069", "Protein kinase domain"),
            Search("GenesByEcNumber", "Serine/threonine kinases", {"ec_number_pattern": "2.7.11.*"}),
            Search(
                "GenesByRNASeqPercentile",
                "Trophozoite RNA-Seq, top 20%",
                {"samples": ["Trophozoite"], "min_expression_percentile": "80"},
            ),
            _NOT_IN_HUMANS,
        ),
        findings=(
            "PfCDPK1 (PF3D7_0217500) and PfPKG (PF3D7_1436600) are the strongest candidates of this list.",
            "Most members of the FIKK family are exported to the red blood cell and have no human ortholog.",
            "PfCLK3 passed every filter; it is essential and has been inhibited with a selective compound.",
            "The domain search alone returns 99 genes; the expression filter removes about a third of them.",
            "Five genes carry the domain but lack the catalytic aspartate, so they are likely pseudokinases.",
        ),
        citations=("10.1126/science.aau1682", "10.1186/1471-2164-5-79", "10.1126/science.aap7847"),
    ),
    Topic(
        title="Vaccine candidates on the merozoite surface",
        organism="Plasmodium vivax P01",
        questions=(
            "Find secreted or surface proteins of P. vivax merozoites that could be vaccine candidates.",
            "Which of those have orthologs in P. knowlesi?",
            "Restrict the list to proteins with few nonsynonymous SNPs, please.",
            "Are any of these recognised by antibodies of people in endemic areas?",
            "What changes if I demand at least two unique peptides as evidence?",
        ),
        searches=(
            _SIGNAL_PEPTIDE,
            _MEMBRANE,
            _text("merozoite surface", "Plasmodium vivax P01"),
            Search("GenesByMassSpec", "Merozoite peptides", {"min_sequence_count": "2", "min_spectra": "1"}),
        ),
        findings=(
            "The Duffy binding protein PVP01_0623800 remains the best documented candidate.",
            "The tryptophan-rich antigens form the largest family in this list, with 36 members.",
            "Signal peptide and merozoite peptides together leave 58 genes, 41 of them with an ortholog.",
            "Most of the SERA family drops out, because its members are expressed late in schizogony.",
            "Antibodies against RBP2b are associated with protection in two cohorts from Papua New Guinea.",
        ),
        citations=("10.1038/nature07327", "10.12688/wellcomeopenres.9876.1"),
    ),
    Topic(
        title="Drug targets in the apicoplast",
        organism="Toxoplasma gondii ME49",
        questions=(
            "Which T. gondii proteins are targeted to the apicoplast?",
            "Combine that with the genes that have a low phenotype score in the CRISPR screen.",
            "Which of them belong to the isoprenoid pathway?",
            "Could you show the same set in Plasmodium falciparum?",
            "Which of these proteins have no counterpart in humans?",
        ),
        searches=(
            _go_term("GO:0020011", "Apicoplast"),
            Search("GenesByPhenotypeScore", "Fitness below -3", {"max_phenotype_score": "-3"}),
            _SIGNAL_PEPTIDE,
            _NOT_IN_HUMANS,
        ),
        findings=(
            "All seven enzymes of the non-mevalonate pathway are in the list, and none has a human ortholog.",
            "Fosmidomycin acts on DXR in Plasmodium, but hardly enters Toxoplasma.",
            "The CRISPR screen gives 92 of these genes a score below -3: the parasite needs them.",
            "The fatty acid synthase FASII is dispensable in the tachyzoite when lipids can be scavenged.",
            "Eleven proteins are annotated as hypothetical and would be worth a localisation experiment.",
        ),
        citations=("10.1016/j.cell.2016.08.019", "10.1016/j.chom.2020.09.011"),
    ),
    Topic(
        title="Surface proteases of Leishmania",
        organism="Leishmania major strain Friedlin",
        questions=(
            "Which proteases does L. major have on its surface or secrete?",
            "How many copies of gp63 are there, and where do they lie?",
            "Please take these genes over to L. infantum.",
            "Which of the proteases are upregulated in amastigotes?",
            "Can the list be limited to small proteins that are easy to express?",
        ),
        searches=(
            _domain("PF01457", "Leishmanolysin"),
            _text("cysteine peptidase", "Leishmania major strain Friedlin"),
            _organism("Leishmania major strain Friedlin"),
            _SMALL_PROTEINS,
        ),
        findings=(
            "The leishmanolysin (gp63) genes form a tandem array on chromosome 10.",
            "The cathepsin L-like peptidases are more abundant in amastigotes than in promastigotes.",
            "Twelve of the peptidases have a signal peptide, but only five also have a GPI anchor.",
            "L. infantum has a larger gp63 array, so that the ortholog groups are not one to one.",
            "The search by text adds three genes that lack the domain, probably because they are truncated.",
        ),
        citations=("10.1126/science.1112680", "10.1038/ng2053"),
    ),
)

MODELS = ("gpt-5.1", "claude-sonnet-4-5", "gemini-3-pro")

TOOLS = (
    "search_for_searches",
    "get_search_parameters",
    "create_search_step",
    "combine_steps",
    "get_estimate",
)

SUB_AGENT_TASKS = ("compare expression datasets", "check orthologs", "read the literature")

REASONS = (
    "A domain search is more reliable here than the product names; the expression data can narrow it down.",
    "The person asks for a subset of the last result, so one more intersection will do.",
    "Orthologs first: the second organism has poorer annotation, and a text search would miss genes.",
)
