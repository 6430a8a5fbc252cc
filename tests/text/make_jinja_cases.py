#!/usr/bin/env python3
"""Renders snippets with Python's Jinja2 under Hugging Face's settings; writes jinja_cases.json.

Run once by hand (pip install jinja2==3.1.6) whenever a snippet is added.
"""
import json
import pathlib

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

DATA = {
    "messages": [
        {"role": "system", "content": "Be <brief> & \"kind\"."},
        {"role": "user", "content": "Hé 你好 🙂\nline two"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "a1", "function": {"name": "f", "arguments": {"x": 1, "y": [1, 2.5, None, True]}}}]},
        {"role": "tool", "content": "  42 \n"},
    ],
    "numbers": [3, 1, 2, 10, -4],
    "names": ["bob", "Alice", "carol", "alice"],
    "people": [{"name": "Bo", "age": 3, "home": {"city": "X"}}, {"name": "al", "age": 1}, {"name": "Cy", "age": 2}],
    "d": {"b": 1, "a": 2, "C": 3, "items": "shadow", "nested": {"k": [1, {"z": "é"}]}},
    "s": "  Hello World  ",
    "word": "straße ÉCOLE ǆ",
    "lines": "one\n\ntwo\r\nthree",
    "empty": "", "zero": 0, "pi": 3.14159, "big": 1e20, "small": 1e-7, "one": 1.0, "yes": True, "nothing": None,
}

SNIPPETS = r"""
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 3 ** 2 }} {{ 2 ** -1 }} {{ -2 ** 2 }}
{{ 1.5 + 1 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1e3 }} {{ 1_000 }} {{ 0xff }} {{ 0b101 }} {{ 1e-5 }} {{ 1e16 }} {{ 123456789.125 }}
{{ 'a' + 'b' }} {{ 'a' ~ 1 ~ none ~ true ~ 1.0 }} {{ 'ab' * 3 }} {{ [1] + [2] }} {{ [0] * 3 }} {{ (1, 2) + (3,) }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 != 2 }} {{ none == false }}
{{ 'a' in 'cat' }} {{ 'a' not in ['b'] }} {{ 'b' in d }} {{ 2 in numbers }} {{ none in [none] }} {{ 'x' in nobody }}
{{ not true or true and false }} {{ 1 and 'x' }} {{ 0 or '' or 'z' }} {{ not 1 == 2 }} {{ zero or empty }}
{{ 'yes' if yes else 'no' }} {{ 'x' if false }} {{ 1 if false else 2 if false else 3 }} {{ (1 if yes) + 1 }}
{{ true }} {{ none }} {{ 1.0 }} {{ [1, 'a', none, 2.5, {'k': 'v'}] }} {{ (1,) }} {{ () }} {{ {'a': (1, 2)} }} {{ {} }}
{{ 'it\'s' }} {{ ['it\'s', 'say "hi"', 'both \' and "', 'tab\t', 'nl\n', '\x00\x7f', 'é你🙂', '\u200b'] }}
{{ "a\nb\tc\\d\x41\u00e9\101\q" }} {{ 'con' 'cat' }}
{{ numbers[0] }} {{ numbers[-1] }} {{ numbers[1:3] }} {{ numbers[::-1] }} {{ numbers[:2] }} {{ numbers[-2:] }} {{ numbers[::2] }} {{ numbers[10:] }} {{ numbers[-100:2] }} {{ numbers[3:0:-1] }}
{{ 'hé你🙂'[1] }} {{ 'hé你🙂'[::-1] }} {{ 'hé你🙂'[-2:] }} {{ 'abc'[5] }}| {{ 'hé你🙂'|length }} {{ (1,2,3)[1:] }}
{{ d.b }} {{ d['a'] }} {{ d.missing }}| {{ d.nested.k[1].z }} {{ d['items'] }} {{ d.items()|list }} {{ d.keys()|list }} {{ d.values()|list }} {{ d.get('b') }} {{ d.get('q') }} {{ d.get('q', 'fallback') }}
{{ messages[0].role }} {{ messages[0]['content'] }} {{ messages[-1]["content"]|trim }} {{ messages|length }}
{% for n in numbers %}{{ loop.index }}/{{ loop.length }}:{{ n }}{{ ',' if not loop.last }}{% endfor %}
{% for n in numbers %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.depth }}{{ loop.previtem }}|{{ loop.nextitem }} {% endfor %}
{% for n in numbers if n > 1 %}{{ n }}-{{ loop.index }} {% else %}none{% endfor %}{% for n in [] %}{% else %}empty{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in 'hé' %}[{{ c }}]{% endfor %}
{% for a, (b, c) in [(1, (2, 3)), (4, (5, 6))] %}{{ a }}{{ b }}{{ c }} {% endfor %}
{% for n in numbers %}{% if n == 2 %}{% continue %}{% endif %}{% if n == 10 %}{% break %}{% endif %}{{ n }}{% endfor %}
{% for n in numbers %}{{ loop.cycle('a', 'b') }}{{ loop.changed(n > 1) }} {% endfor %}
{% for p in people recursive %}{{ p.name }}{% if p.kids %}({{ loop(p.kids) }}){% endif %}{% endfor %}
{% for t in [[1, [2, [3]]]] recursive %}{% if t is iterable %}<{{ loop(t) }}>{% else %}{{ t }}@{{ loop.depth }}{% endif %}{% endfor %}
{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}
{% set ns = namespace(n=0, found=false) %}{% for i in numbers %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}{{ ns.found }}{{ ns.missing }}|
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t = 1, %}{{ t }}{% set (p, q) = 'xy' %}{{ q }}{{ p }}
{% set block %}  some {{ 1 + 1 }} text {% endset %}[{{ block }}]{% set up | upper | trim %} shout {% endset %}[{{ up }}]
{% macro m(a, b=2, c='z') %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}|{{ m(1, c=3) }}|{{ m(1, 2, 3, 4, x=5) }}|{{ m() }}
{% macro fact(n) %}{% if n <= 1 %}1{% else %}{{ n * (fact(n - 1)|int) }}{% endif %}{% endmacro %}{{ fact(5) }} {{ fact.name }}
{% macro box(title) %}[{{ title }}: {{ caller('in') if caller else 'no caller' }}]{% endmacro %}{% call(x) box('T') %}body {{ x }}{% endcall %}
{% macro n(a) %}{{ a }}{% endmacro %}{{ n(1, 2) }}
{% macro n(a) %}{{ a }}{% endmacro %}{{ n(1, x=2) }}
{% macro n(a) %}{{ a }}{% endmacro %}{% call n(1) %}{% endcall %}
{% macro n(a) %}{{ a }}{{ caller() }}{% endmacro %}{{ n(1) }}
{% set g = 'global' %}{% macro show() %}{{ g }}{% endmacro %}{% set g = 'changed' %}{{ show() }}{% for g in ['loop'] %}{{ show() }}{% endfor %}
{% filter upper %}hello {{ 'there' }}{% endfilter %} {% filter replace('a', 'b')|trim %} banana {% endfilter %}
{% with a = 1, b = 2 %}{{ a + b }}{% set a = 5 %}{{ a }}{% endwith %}{{ a }}|
{% generation %}generated {{ 1 }}{% endgeneration %} {% raw %}{{ raw }} {% if %}{% endraw %} after
{# comment #}a{#- b -#} c
{{ s|trim }}|{{ s|upper }}|{{ s|lower }}|{{ s|title }}|{{ s|capitalize }}|{{ 'foo-bar (baz) a_b'|title }}
{{ word|upper }} {{ word|lower }} {{ word|capitalize }} {{ word.title() }} {{ word.swapcase() }} {{ 'İ'|lower }} {{ 'ΑΣ'|lower }}
{{ numbers|join(', ') }} {{ people|join('+', attribute='name') }} {{ numbers|first }} {{ numbers|last }} {{ []|first }}| {{ numbers|sum }} {{ people|sum(attribute='age') }} {{ numbers|min }} {{ numbers|max }} {{ names|min }} {{ people|max(attribute='age') }}
{{ numbers|sort }} {{ numbers|sort(reverse=true) }} {{ names|sort }} {{ names|sort(case_sensitive=true) }} {{ people|sort(attribute='age')|map(attribute='name')|list }} {{ names|unique|list }} {{ numbers|reverse|list }} {{ 'abc'|reverse }}
{{ d|dictsort }} {{ d|items|list }} {{ {'b': 2, 'a': 1}|dictsort(by='value') }} {{ {'b': 2, 'A': 1}|dictsort(true) }}
{{ numbers|map('string')|join('/') }} {{ names|map('upper')|list }} {{ people|map(attribute='home.city', default='-')|list }} {{ numbers|select('gt', 1)|list }} {{ numbers|reject('odd')|list }} {{ people|selectattr('age', 'ge', 2)|map(attribute='name')|list }} {{ people|rejectattr('home')|list|length }} {{ [0, 1, '']|select|list }} {{ none|selectattr('x')|list }}
{{ people|selectattr('name', 'equalto', 'Bo')|list }} {{ people|selectattr('home', 'defined')|list|length }} {{ names|map('length')|list }} {{ names|map('replace', 'a', '_')|list }}
{{ nobody|default('dflt') }} {{ ''|default('x') }}| {{ ''|default('x', true) }} {{ none|d('n') }} {{ nothing|default('x', boolean=True) }}
{{ d|tojson }} {{ messages|tojson }} {{ 'é"\\/\n\u0001<>&\''|tojson }} {{ [1.0, 1e20, 1e-7, none, true]|tojson }}
{{ d|tojson(indent=2) }} {{ []|tojson(indent=2) }} {{ {}|tojson(indent=4) }} {{ {'a': []}|tojson(indent=1) }}
{{ d|tojson(separators=(',', ':')) }} {{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }} {{ 'é🙂'|tojson(ensure_ascii=true) }} {{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}
{{ '42'|int }} {{ 'x'|int }} {{ 'x'|int(7) }} {{ '3.7'|int }} {{ 3.9|int }} {{ 'ff'|int(base=16) }} {{ '1.5'|float }} {{ 'q'|float }} {{ true|int }} {{ none|int }} {{ ' 5 '|int }}
{{ 3.14159|round(2) }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.1|round(method='ceil') }} {{ 2.9|round(0, 'floor') }} {{ 7|round }} {{ -3|abs }} {{ -2.5|abs }} {{ 2.675|round(2) }}
{{ lines|indent }}|{{ lines|indent(2, true) }}|{{ lines|indent('> ', blank=true) }}
{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c d'.split(' ', 2) }} {{ 'a b c'.rsplit(' ', 1) }} {{ 'a b  c '.rsplit(none, 1) }} {{ lines.splitlines() }} {{ ''.split() }} {{ ''.split(',') }}
{{ s.strip() }}|{{ s.lstrip() }}|{{ s.rstrip() }}|{{ 'xxhixx'.strip('x') }} {{ 'abcba'.lstrip('ab') }} {{ '你好你'.strip('你') }}
{{ 'hello'.startswith('he') }} {{ 'hello'.endswith(('lo', 'x')) }} {{ 'hello'.find('l') }} {{ 'é你hello'.find('l') }} {{ 'hello'.rfind('l') }} {{ 'hello'.find('q') }} {{ 'hello'.index('e') }} {{ 'banana'.count('an') }} {{ 'hello'.find('l', 3) }} {{ 'hello'.startswith('l', 2) }}
{{ 'a-b'.replace('-', '+') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'ab'.replace('', '.') }} {{ 'x'.join(['a', 'b']) }} {{ 'k=v=w'.partition('=') }} {{ 'k=v=w'.rpartition('=') }} {{ '7'.zfill(3) }} {{ '-7'.zfill(4) }}
{{ 'a'.ljust(3, '.') }}{{ 'a'.rjust(3) }}{{ 'ab'.center(5, '*') }} {{ 'ab'.center(6, '*') }} {{ 'a'|center(5) }}| {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.py'.removesuffix('.py') }}
{{ 'abc'.isalpha() }} {{ '12'.isdigit() }} {{ '½'.isdigit() }} {{ '½'.isnumeric() }} {{ '²'.isdigit() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'AB1'.isupper() }} {{ 'ab'.islower() }} {{ ''.isalpha() }} {{ '一'.isnumeric() }} {{ 'é'.isalpha() }}
{{ '%s is %d years and %.2f' % ('Bo', 3, 1.5) }} {{ '%05d|%-5s|%5s|%x' % (42, 'a', 'b', 255) }} {{ '%(a)s' % {'a': 1} }} {{ '100%%' % () }} {{ '%s'|format('x') }} {{ '%r' % ('q',) }}
{{ '{} {}'.format(1, 'b') }} {{ '{0}{1}{0}'.format('a', 'b') }} {{ '{name:>5}|{x:.2f}|{y:03d}'.format(name='n', x=1.5, y=7) }} {{ '{{}}'.format() }} {{ '{p[name]}'.format(p=people[0]) }}
{{ nobody is defined }} {{ d is mapping }} {{ numbers is sequence }} {{ numbers is iterable }} {{ 1 is number }} {{ true is number }} {{ true is boolean }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is float }} {{ 's' is string }} {{ none is none }} {{ nothing is not none }} {{ 4 is even }} {{ 3 is odd }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is eq 1 }} {{ 1 is in [1] }} {{ 'a' is lower }} {{ 'A' is upper }} {{ d.q is undefined }} {{ range is callable }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ d is sameas d }} {{ 'upper' is filter }} {{ 'odd' is test }} {{ 1 is not string }} {{ 's' is sequence }} {{ 's'|safe is escaped }}
{{ range(3)|list }} {{ range(1, 4)|list }} {{ range(5, 0, -2)|list }} {{ dict(a=1, b='x') }} {{ dict({'a': 1}, b=2) }} {{ dict([('k', 'v')]) }}
{{ [1, 2, 3, 4, 5]|batch(2)|list }} {{ [1, 2, 3]|batch(2, 'x')|list }} {{ [1, 2, 3, 4, 5]|slice(2)|list }} {{ [1, 2, 3]|slice(2, 0)|list }}
{% for g, items in people|groupby('age') %}{{ g }}:{{ items|map(attribute='name')|join }} {% endfor %}
{{ 'a b c'|wordcount }} {{ 'one two three four'|truncate(9) }} {{ 'one two three four'|truncate(9, true) }} {{ 'one two'|truncate(9) }} {{ 'one two three four'|truncate(11, leeway=0, end='~') }}
{{ 'a b/c?é'|urlencode }} {{ {'a b': 'c&d'}|urlencode }} {{ '<a href="x">\'&'|e }} {{ '<b>'|escape|upper }} {{ '<b>'|safe + '<i>' }} {{ '<i>' + '<b>'|safe }} {{ '<b>'|safe ~ '<i>' }} {{ '<b>'|e|e }} {{ '<b>'|e|forceescape }} {{ ('<b>'|safe).upper() + '&' }}
{{ numbers|count }} {{ d|length }} {{ nobody|length }} {{ nobody|list }} {{ nobody ~ 'x' }} {{ nobody == nobody2 }} {{ nobody|upper }}| {{ nobody|tojson if nobody is defined else 'undef' }} {% for x in nobody %}{% endfor %}
{{ numbers.index(2) }} {{ numbers.count(1) }} {{ numbers.copy() }} {{ d.copy().b }} {{ (1, 2, 1).count(1) }}
{% set j = joiner('; ') %}{% for i in [1, 2, 3] %}{{ j() }}{{ i }}{% endfor %}{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}
{{ m(*[1, 2]) if m is defined else 'no m' }}{% macro v(a, b, c=0) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ v(*[1, 2], **{'c': 3}) }}
{{ {'a': {'b': 1}}['a']['b'] }} {{ {'a': {'b': {'c': 2}}}}} {{ {'x': 1}.x }} {{ [[1, 2], [3]][0][1] }} {{ {'key': 'v'}|items|list }} {{ d|list }} {{ 'abc'|list }}
{{ 1, 2 }} {{ (1) }} {{ 'a' if d.b == 1 and 'a' in d else 'b' }} {{ messages[2].tool_calls[0].function.arguments|tojson }} {{ messages[2].tool_calls[0]['function'] }} {{ messages[2].content is none }}
{{ pi }} {{ big }} {{ small }} {{ one }} {{ 0.1 + 0.2 }} {{ 1/3 }} {{ 100000000000000000.0 }} {{ -0.0 }} {{ 1e15 }} {{ 12345678901234567.0 }}
{{ nobody.x }}
{{ nobody + 1 }}
{{ nobody() }}
{{ d.missing.deeper }}
{{ nothing.x }}|{{ nothing['x'] }}|{{ nothing.x.y }}
{{ 1 + 'a' }}
{{ 'a' + 1 }}
{{ [1] + 'a' }}
{{ 1 < 'a' }}
{{ 'a' > 1 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 5 in 5 }}
{{ 1 in 'a' }}
{{ none|length }}
{% for x in none %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for a, b in [[1]] %}{% endfor %}
{% for a, b in [[1, 2, 3]] %}{% endfor %}
{{ numbers.append(1) }}
{{ d.update({'a': 1}) }}
{{ ''.__class__ }}
{{ ''.__class__.__mro__ }}
{{ raise_exception('boom ' ~ 1) }}
{{ range(1000000) }}
{{ 'abc'.index('q') }}
{{ 'x'|nofilter }}
{{ 'x' is notest }}
{{ numbers|map(attribute='x')|tojson }}
{{ range|tojson }}
{{ nobody|tojson }}
{% set q.x = 1 %}
{% set d.x = 1 %}
{{ people[0].name() }}
{{ 'x'.split('') }}
{{ '%d' % 'x' }}
{{ {[1]: 2} }}
{{ {'a': 1}[[1]] }}|
{{ numbers|sort(attribute='x')|list }}
{{ [1, 'a']|sort }}
{{ loop }}
{{ -'a' }}
{% if %}{% endif %}
{{ }}
{% for %}{% endfor %}
{% endif %}
{{ 'a' }
{% if true %}
{{ 1 +  }}
{% unknown %}
{{ foo bar }}
{{ (1, }}
{{ [1, 2 }}
{% set 1 = 2 %}
{% macro f(a=1, b) %}{% endmacro %}
{{ 'unterminated }}
{% raw %} never ends
{# never ends
{% set true = 1 %}
{{ f(a=1, 2) }}
""".strip("\n").split("\n")

MULTILINE = [
    "{% if true %}\n  text\n{% endif %}\nend\n",
    "a\n   {% if true %}\nb\n   {% endif %}\nc",
    "  {{ 1 }}  \n  {{- 2 }}\n{{ 3 -}}  \n  x",
    "x  {%- if true -%}  \n y \n {%- endif -%}  z",
    "   {%+ if true %}a{% endif %}\n  {% if true +%}\nb{% endif %}",
    "  {# c #}\n  d {# e #}\nf\n\t{#- g -#}\n h",
    "line\r\nnext{% if true %}\r\nx{% endif %}\r\n",
    "ends with newline\n", "two newlines\n\n", "",
    "{% for m in messages %}\n    {{ m.role }}\n{% endfor %}\n",
    "{%- for m in messages %}\n    {{- m.role + '\n' }}\n{%- endfor %}\n{{ 'x' }}\n\n",
    "  {% raw %}\n  {{ x }}\n  {% endraw %}\n  y",
    "{%- raw -%}\n  {{ x }}\n  {%- endraw -%}\n  y",
    "{% set x %}\n  a\n{% endset %}\n[{{ x }}]",
    "{% macro a() %}\n  in\n{% endmacro %}\n<{{ a() }}>\n  {%- call b() %}x{% endcall %}{% macro b() %}{{ caller() }}{% endmacro %}\n",
    "{{ {\n 'a': 1,\n 'b': [1,\n 2]} }}\n{{ nobody.x }}",
    "a {% if true %} b {% endif %} c\n  {% if true %}\n  d\n  {% endif %}\n",
    "\n\n{{ 1 }}\n\n{% if true %}\n\n2\n{% endif %}\n\n",
    "a{{ '{{' }}b{{ '%}' }}c{{ \"}}\" }}",
    "{ {% if true %}{ {{ 1 }} }{% endif %} } {not a tag} {",
    "{% if false %}a{% elif 1 > 2 %}b{% elif true %}c{% else %}d{% endif %}",
    "{%if true%}x{%endif%}{{1}}{{-2-}} 3",
    "{% for i in range(3) %}{% for j in range(2) %}{{ loop.index }}{{ i }}{{ j }} {% if j == 0 %}{% continue %}{% endif %}!{% endfor %}{% endfor %}",
    "{% macro outer(x) %}{% macro inner(y) %}{{ x }}{{ y }}{% endmacro %}{{ inner(1) }}{% endmacro %}{{ outer('o') }}",
    "{% set ns = namespace(items=[]) %}{% for m in messages %}{% set ns.items = ns.items + [m.role] %}{% endfor %}{{ ns.items|join(',') }}",
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% endfor %}",
    "{{ messages[1:]|map(attribute='role')|list }}{{ messages|selectattr('role', 'in', ['user', 'tool'])|list|length }}",
    "{% set content = '<think>a</think>b' %}{{ content.split('</think>')[-1].lstrip('\\n') }}{{ content.split('</think>')[0].split('<think>')[-1] }}",
    "{{ strftime_now('%d %b %Y') }}",
]


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(lineno)

    def _render(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def main():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: "26 Jul 2024"
    cases = []
    for source in SNIPPETS + MULTILINE:
        case = {"source": source}
        try:
            case["out"] = env.from_string(source).render(**DATA)
        except jinja2.exceptions.TemplateAssertionError as error:
            case["error"] = "TemplateAssertionError: " + error.message
        except jinja2.exceptions.TemplateSyntaxError:
            case["error"] = "TemplateSyntaxError"
        except Exception as error:  # whatever Python raises is the expectation
            case["error"] = type(error).__name__ + ": " + str(error)
        cases.append(case)
    path = pathlib.Path(__file__).with_name("jinja_cases.json")
    path.write_text(json.dumps({"data": DATA, "cases": cases}, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
