//! Mistakes of the state machine, to be switched on one at a time: a simulation that
//! does not find them would not find ours. Only the feature `planted` can make one.

/// Declares each bug once: its variant, its row in the list of pitfalls, what it does.
macro_rules! bugs {
    ($($variant:ident = $row:literal, $text:literal;)*) => {
        /// A mistake that a state machine can be told to make.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Bug {
            $(#[doc = $text] $variant,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$variant),*];

            /// The row of the list of pitfalls that tells of it.
            #[must_use]
            pub const fn row(self) -> u32 {
                match self { $(Bug::$variant => $row,)* }
            }

            /// What it does, for people.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Bug::$variant => $text,)* }
            }
        }
    };
}

bugs! {
    SlotBeforeData = 33, "the applied slot is written before the data that it stands for";
    RevisionBehindData = 33, "the saved revision is one behind the data that are saved with it";
    SequencesForgotten = 36, "the saved state forgets which commands of which node it took";
    ConfigurationsForgotten = 36, "the saved state forgets who votes";
    RetryAppliedTwice = 43, "a retry under an idempotency key is carried out again";
    SequenceAppliedTwice = 43, "a command that arrives twice is carried out twice";
    AnswersInMemoryOnly = 43, "answers under idempotency keys are not saved";
    FailedConditionStores = 45, "a compare-and-set whose comparison failed changes the state";
    CacheDecides = 50, "what a command does depends on what this node has cached";
}

/// The mistake that this state machine makes, which is none in production.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Planted {
    #[cfg(feature = "planted")]
    bug: Option<Bug>,
}

impl Planted {
    /// No bug: what every real node passes.
    pub const NONE: Planted = Planted {
        #[cfg(feature = "planted")]
        bug: None,
    };

    /// A state machine that makes this mistake.
    #[cfg(feature = "planted")]
    #[must_use]
    pub const fn of(bug: Bug) -> Planted {
        Planted { bug: Some(bug) }
    }

    /// Whether to make this mistake here.
    #[inline]
    #[must_use]
    pub fn is(self, bug: Bug) -> bool {
        #[cfg(feature = "planted")]
        return self.bug == Some(bug);
        #[cfg(not(feature = "planted"))]
        {
            let _ = bug;
            false
        }
    }
}
