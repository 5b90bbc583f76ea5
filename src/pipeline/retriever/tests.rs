//! Settings of the retriever: what they are called, which are refused.

use super::*;

fn hybrid() -> Wanted {
    Wanted { kind: Some(Kind::Hybrid), ..Wanted::default() }
}

#[test]
fn settings_have_names_and_defaults() {
    for (wanted, label) in [
        (Wanted::default(), "dense"),
        (Wanted { kind: Some(Kind::Bm25), ..Wanted::default() }, "bm25"),
        (hybrid(), "hybrid rrf depth 100"),
        (Wanted { fusion: Some(Fusion::Weighted), ..hybrid() }, "hybrid weighted 0.5 depth 100"),
        (
            Wanted { fusion: Some(Fusion::Weighted), weight: Some(1.0), depth: Some(7), ..hybrid() },
            "hybrid weighted 1 depth 7",
        ),
    ] {
        assert_eq!(RetrieverSettings::new(wanted).unwrap().label(), label);
    }
    for kind in [Kind::Dense, Kind::Bm25, Kind::Hybrid] {
        assert_eq!(Kind::parse(kind.name()).unwrap(), kind);
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    for fusion in [Fusion::Rrf, Fusion::Weighted] {
        assert_eq!(Fusion::parse(fusion.name()).unwrap(), fusion);
        assert_eq!(serde_json::to_value(fusion).unwrap(), fusion.name());
    }
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    let weighted = Wanted { fusion: Some(Fusion::Weighted), ..hybrid() };
    for (wanted, says) in [
        (Wanted { fusion: Some(Fusion::Rrf), ..Wanted::default() }, "--hybrid rrf"),
        (Wanted { kind: Some(Kind::Bm25), weight: Some(0.5), ..Wanted::default() }, "--hybrid-weight 0.5"),
        (Wanted { kind: Some(Kind::Dense), depth: Some(9), ..Wanted::default() }, "--hybrid-depth 9"),
        (Wanted { weight: Some(0.3), ..hybrid() }, "--hybrid rrf"),
        (Wanted { weight: Some(1.5), ..weighted }, "1.5"),
        (Wanted { weight: Some(-0.1), ..weighted }, "-0.1"),
        (Wanted { weight: Some(f64::NAN), ..weighted }, "NaN"),
        (Wanted { depth: Some(0), ..hybrid() }, "--hybrid-depth 0"),
    ] {
        let error = RetrieverSettings::new(wanted).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(error.find_hint().is_some());
    }
    assert!(Kind::parse("sparse").unwrap_err().to_string().contains("`sparse`"));
    assert!(Fusion::parse("sum").unwrap_err().to_string().contains("`sum`"));
}

#[test]
fn options_of_a_hybrid_stay_with_the_retriever_they_were_said_of() {
    let run = Wanted { fusion: Some(Fusion::Weighted), weight: Some(0.2), ..hybrid() };
    assert_eq!(Wanted::default().or(run), run);
    assert_eq!(Wanted { weight: Some(0.9), ..Wanted::default() }.or(run), Wanted { weight: Some(0.9), ..run });
    let dense = Wanted { kind: Some(Kind::Dense), ..Wanted::default() };
    assert_eq!(dense.or(run), dense);
    assert_eq!(hybrid().or(Wanted::default()), hybrid());
}
