"""Names out of __cxa_demangle, short; others are left alone."""

import pytest

from tracer.callstacks.demangled import is_cpp, without_types


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("app::fill(int, char const*)", "app::fill"),
        ("std::vector<int (*)(char)>::at(unsigned long)", "std::vector<int (*)(char)>::at"),
        ("app::operator new(unsigned long)", "app::operator new"),
        ("void app::fill<int>(int)", "app::fill<int>"),
        ("unsigned long std::max<unsigned long>(unsigned long)", "std::max<unsigned long>"),
        ("app::Filler::fill(int) const", "app::Filler::fill"),
        ("app::Filler::fill(int) const &", "app::Filler::fill"),
        ("(anonymous namespace)::grow(int)", "(anonymous namespace)::grow"),
        ("void (anonymous namespace)::grow<int>(int)", "(anonymous namespace)::grow<int>"),
        ("foo::operator()(int)", "foo::operator()"),
        ("bool foo::operator()(int) const", "foo::operator()"),
        ("operator new(unsigned long)", "operator new"),
        ("operator new[](unsigned long, std::nothrow_t const&)", "operator new[]"),
        ("operator delete(void*)", "operator delete"),
        ("Foo::operator unsigned int() const", "Foo::operator unsigned int"),
        ("bool operator<(A const&, B const&)", "operator<"),
        ("bool operator< <int>(A<int> const&)", "operator< <int>"),
        ("std::ostream& operator<<(std::ostream&, A)", "operator<<"),
        ("A::operator->() const", "A::operator->"),
        ("auto A::operator<=>(A const&) const", "A::operator<=>"),
        ("A::operator[](int)", "A::operator[]"),
        ("operator\"\" _km(long double)", "operator\"\" _km"),
        ("decltype(auto) f<int>(int)", "f<int>"),
        ("decltype ((a(0)->b)()) g<A>(A)", "g<A>"),
        ("main::{lambda(int)#1}::operator()(int) const", "main::{lambda(int)#1}::operator()"),
        ("foo(int)::{lambda()#1}::operator()() const", "foo(int)::{lambda()#1}::operator()"),
        ("cooperator::join(int)", "cooperator::join"),
        ("app::fill(int) [clone .cold]", "app::fill"),
        ("app::fill(int) [clone .isra.0] [clone .cold]", "app::fill"),
        ("core::fmt::write::h0123456789abcdef", "core::fmt::write"),
        ("core::fmt::write::h0123456789abcdef [clone .llvm.123]", "core::fmt::write"),
        ("core::fmt::write::h0123456789abcdef (.llvm.123)", "core::fmt::write"),
        ("std::vector<int, std::allocator<int> >::push_back(int&&)",
         "std::vector<int, std::allocator<int> >::push_back"),
        ("main", "main"),
        ("", ""),
        ("(int)", "(int)"),
        (")(", ")("),
    ],
)  # fmt: skip
def test_names_without_types(name: str, short: str) -> None:
    assert without_types(name) == short


def test_only_mangled_names_are_cpps() -> None:
    assert is_cpp("_ZN3app4fillEi")
    for name in ("runtime.(*mcache).refill", "main", "prog (deleted)", "_start", "", "_RNvC1a1b"):
        assert not is_cpp(name)
