//! How a crate declares its planted bugs. The state machine's crate includes this
//! file too, because it depends on nothing of ours.

/// Declares each bug once: its variant, its row in the list of pitfalls, what it does.
/// The first text says who makes them.
macro_rules! planted_bugs {
    ($who:literal; $($variant:ident = $row:literal, $text:literal;)*) => {
        #[doc = concat!("A mistake that a ", $who, " can be told to make.")]
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

        #[doc = concat!("The mistake that this ", $who, " makes, which is none in production.")]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
        pub struct Planted {
            #[cfg(feature = "planted")]
            bug: Option<Bug>,
        }

        impl Planted {
            /// No mistake: what every real node passes.
            pub const NONE: Planted = Planted {
                #[cfg(feature = "planted")]
                bug: None,
            };

            #[doc = concat!("A ", $who, " that makes this mistake.")]
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
    };
}
