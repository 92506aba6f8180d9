//! Services of pure Rust types, without a .proto: [`service!`](crate::service!).

/// Defines a service whose arguments and replies are serde types, serialized by bincode. Both sides
/// must be built from the same definition.
///
/// Like the generated code of a .proto, it makes a trait to implement, a type that publishes the
/// service, and a stub that calls it, with the names given. Each method is
/// `fn name = "NameOnTheWire"(Args) -> Reply;`, with `idempotent` before `fn` if running it twice
/// has the same effect as running it once. A method may have any name except `new` and `with`,
/// which the stub has already.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::time::{Duration, Instant};
/// use syncraft_rpc::{Bincode, Channel, Done, Server};
///
/// syncraft_rpc::service! {
///     /// Sums.
///     pub trait Calculator = "calculator"
///         published by CalculatorService, called by CalculatorStub {
///         /// Adds two numbers.
///         idempotent fn add = "Add"((i64, i64)) -> i64;
///         /// How often this was called before.
///         fn count = "Count"(()) -> u64;
///     }
/// }
///
/// #[derive(Default)]
/// struct Adder(AtomicU64);
///
/// impl Calculator for Adder {
///     fn add(&self, (one, other): (i64, i64), done: Done<Bincode<i64>>) {
///         done.run(Bincode(one + other));
///     }
///
///     fn count(&self, (): (), done: Done<Bincode<u64>>) {
///         done.run(Bincode(self.0.fetch_add(1, Ordering::Relaxed)));
///     }
/// }
///
/// let service = CalculatorService::new(Arc::new(Adder::default())).version(2);
/// let server = Server::builder().service(service).bind("127.0.0.1:0").build()?.start();
/// let stub = CalculatorStub::new(Channel::builder(server.local_addr().to_string()).lazy());
/// let deadline = Instant::now() + Duration::from_secs(5);
/// assert_eq!(stub.add((40, 2), deadline)?, 42);
/// assert_eq!(stub.count((), deadline)?, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[macro_export]
macro_rules! service {
    (
        $(#[$about:meta])*
        $visibility:vis trait $name:ident = $wire_name:literal
        published by $service:ident, called by $stub:ident {
            $($(#[$about_method:meta])* $(idempotent $($mark:lifetime)?)? fn $method:ident =
                $wire_method:literal($args:ty) -> $reply:ty;)*
        }
    ) => {
        $(#[$about])*
        ///
        /// Each method is answered once through its `Done`: at once or later, from any thread.
        $visibility trait $name: ::core::marker::Send + ::core::marker::Sync + 'static {
            $($(#[$about_method])*
            fn $method(&self, args: $args, done: $crate::Done<$crate::Bincode<$reply>>);)*
        }

        /// Publishes an implementation of the service.
        $visibility struct $service<T_> {
            implementation: ::std::sync::Arc<T_>,
            version: u32,
        }

        #[allow(dead_code, reason = "not everything is used everywhere")]
        impl<T_: $name> $service<T_> {
            /// A service that hands its calls to `implementation`.
            $visibility fn new(implementation: ::std::sync::Arc<T_>) -> Self {
                Self { implementation, version: 0 }
            }

            /// Publishes a version. Callers that were made for another version are refused. Default
            /// 0: all are served.
            $visibility fn version(self, version: u32) -> Self {
                Self { version, ..self }
            }
        }

        impl<T_> ::core::fmt::Debug for $service<T_> {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                let name = ::core::stringify!($service);
                f.debug_struct(name).field("version", &self.version).finish_non_exhaustive()
            }
        }

        impl<T_: $name> $crate::Service for $service<T_> {
            fn name(&self) -> &'static str {
                $wire_name
            }

            fn methods(&self) -> &'static [&'static str] {
                &[$($wire_method),*]
            }

            fn codec(&self) -> u32 {
                <$crate::Bincode<()> as $crate::Payload>::CODEC
            }

            fn version(&self) -> u32 {
                self.version
            }

            fn call(&self, method: usize, args: $crate::prost::bytes::Bytes, call: $crate::Call) {
                match $crate::Service::methods(self)[method] {
                    $($wire_method => {
                        if let ::core::option::Option::Some(($crate::Bincode(args), done)) =
                            call.open(args)
                        {
                            <T_ as $name>::$method(&self.implementation, args, done);
                        }
                    })*
                    _ => ::core::unreachable!("a server asks for methods that there are"),
                }
            }
        }

        /// Calls the service through a channel, or anything else that carries calls.
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        $visibility struct $stub<C_ = $crate::Channel> {
            invoker: C_,
            options: $crate::CallOptions,
        }

        #[allow(dead_code, reason = "not everything is used everywhere")]
        impl<C_: $crate::Invoke> $stub<C_> {
            /// A stub that calls through `invoker`.
            $visibility fn new(invoker: C_) -> Self {
                Self { invoker, options: ::core::default::Default::default() }
            }

            /// The same, with these options for each of its calls.
            $visibility fn with(self, options: $crate::CallOptions) -> Self {
                Self { options, ..self }
            }

            $($(#[$about_method])*
            $visibility fn $method(
                &self,
                args: $args,
                deadline: ::std::time::Instant,
            ) -> ::core::result::Result<$reply, $crate::CallError> {
                const METHOD: $crate::Method =
                    $crate::Method::new($wire_name, $wire_method)$(.idempotent() $($mark)?)?;
                let args = $crate::Bincode(args);
                let reply: $crate::Bincode<$reply> =
                    $crate::Invoke::invoke(&self.invoker, &METHOD, &self.options, &args, deadline)?;
                ::core::result::Result::Ok(reply.0)
            })*
        }
    };
}

#[cfg(test)]
mod tests {
    //! Names that could clash: with imported names, with type parameters, with methods that every
    //! type has.
    #![allow(dead_code, reason = "they are only compiled")]

    use std::sync::Arc;
    use std::sync::mpsc;

    use serde::{Deserialize, Serialize};

    use super::super::{Bincode, Call, Done, Payload, Service};

    macro_rules! types {
        ($($name:ident)*) => {
            $(#[derive(std::fmt::Debug, std::cmp::PartialEq, Serialize, Deserialize)]
            struct $name {})*
        };
    }

    types! { Send Sync Sized Default Clone Debug Option Result Service_ Arc_ C T Self_ }

    crate::service! {
        trait Shadows = "shadows" published by ShadowsService, called by ShadowsStub {
            fn clone = "Clone"(Send) -> Sync;
            fn default = "Default"(C) -> T;
            fn invoker = "Invoker"(Default) -> Debug;
            fn version = "Version"(Option) -> Result;
            fn type_id = "TypeId"(Clone) -> Sized;
        }
    }

    struct Here;

    impl Shadows for Here {
        fn clone(&self, _: Send, done: Done<Bincode<Sync>>) {
            done.run(Bincode(Sync {}));
        }

        fn default(&self, _: C, done: Done<Bincode<T>>) {
            done.run(Bincode(T {}));
        }

        fn invoker(&self, _: Default, done: Done<Bincode<Debug>>) {
            done.run(Bincode(Debug {}));
        }

        fn version(&self, _: Option, done: Done<Bincode<Result>>) {
            done.run(Bincode(Result {}));
        }

        fn type_id(&self, _: Clone, done: Done<Bincode<Sized>>) {
            done.run(Bincode(Sized {}));
        }
    }

    #[test]
    fn methods_and_types_of_any_name_are_called() {
        let service = ShadowsService::new(Arc::new(Here));
        assert!(format!("{service:?}").starts_with("ShadowsService"));
        for method in 0..Service::methods(&service).len() {
            let (tx, answers) = mpsc::channel();
            let mut args = Vec::new();
            Bincode(Send {}).write(&mut args);
            let answer = move |answer| tx.send(answer).expect("somebody waits");
            Service::call(&service, method, args.into(), Call::local(answer));
            let answer = answers.recv().expect("it is answered");
            std::assert!(answer.is_ok(), "method {method}: {answer:?}");
        }
    }
}
