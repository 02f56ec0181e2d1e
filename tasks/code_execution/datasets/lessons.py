"""Short programs in the style of a language tutorial, one topic each, separated by blank lines.

Written for this project. Every program prints something and uses constants that can be replaced.
"""


def lessons() -> list[str]:
    """All of them, in the order of the file."""
    return [part.strip("\n") + "\n" for part in TEXT.strip("\n").split("\n\n")]


TEXT = r"""
width = 20
height = 45
print(width * height)

price = 12.5
tax = 0.25
cost = price * tax
print(price + cost)
print(round(cost, 1))

print(17 // 3, 17 % 3)
print(5 * 3 + 2)

word = 'Python'
print(word[0], word[-1])
print(word[2:5] + word[:2])
print(len(word))

squares = [1, 4, 9, 16]
squares.append(25)
print(squares[-3:])
squares[0] = 7
print(squares)

letters = ['a', 'b', 'c', 'd', 'e']
letters[1:3] = ['x']
print(letters)
letters[:] = letters[::-1]
print(len(letters), letters)

rows = [['a', 'b'], [1, 2, 3]]
print(rows[0][1])
rows[1].append(4)
print(rows)

a, b = 0, 1
while a < 10:
    print(a)
    a, b = b, a + b

x = 42
if x < 0:
    x = 0
    print('negative')
elif x == 0:
    print('zero')
elif x > 40:
    print('large')
else:
    print('more')

words = ['cat', 'window', 'tree']
for w in words:
    print(w, len(w))

users = {'hans': 3, 'eva': 5, 'jo': 1}
for user, count in users.copy().items():
    if count < 2:
        del users[user]
print(users)

for i in range(3):
    print(i * 2)

print(list(range(5, 10)))
print(sum(range(4)))

notes = ['do', 're', 'mi']
for i in range(len(notes)):
    print(i, notes[i])

for n in range(2, 7):
    for x in range(2, n):
        if n % x == 0:
            print(n, 'equals', x, '*', n // x)
            break
    else:
        print(n, 'is prime')

for num in range(2, 6):
    if num % 2 == 0:
        print('even', num)
        continue
    print('odd', num)

def fib(n):
    result = []
    a, b = 0, 1
    while a < n:
        result.append(a)
        a, b = b, a + b
    return result
print(fib(20))

def greet(name, times=2):
    text = ''
    for i in range(times):
        text += name + ' '
    return text
print(greet('Ann'))
print(greet('Bo', 3))

def keep(item, kept=[]):
    kept.append(item)
    return kept
print(keep(1))
print(keep(2))

def total(*values):
    result = 0
    for value in values:
        result += value
    return result
print(total(3, 4, 5))

def make_incrementor(n):
    return lambda x: x + n
f = make_incrementor(42)
print(f(0))
print(f(1))

pairs = [(1, 'one'), (2, 'two'), (3, 'three')]
pairs.sort(key=lambda pair: pair[1])
print(pairs)

fruits = ['orange', 'apple', 'pear', 'apple']
print(fruits.count('apple'))
print(fruits.index('pear'))
fruits.reverse()
fruits.sort()
print(fruits.pop())

stack = [3, 4, 5]
stack.append(6)
stack.append(7)
print(stack.pop())
print(stack.pop())
print(stack)

from collections import deque
queue = deque(['Eric', 'John'])
queue.append('Terry')
print(queue.popleft())
print(len(queue))

squares = []
for x in range(5):
    squares.append(x ** 2)
print(squares)

print([x * y for x in range(1, 4) for y in range(1, 3) if x != y])

vector = [-4, -2, 0, 2, 4]
print([x * 2 for x in vector])
print([x for x in vector if x >= 0])
print([abs(x) for x in vector])

matrix = [[1, 2, 3], [4, 5, 6]]
transposed = []
for i in range(3):
    transposed.append([row[i] for row in matrix])
print(transposed)

a = [-1, 1, 66, 33, 333]
del a[0]
print(a)
del a[2:4]
print(a)

t = 12, 54, 'hello'
print(t[0])
x, y, z = t
print(x + y)

basket = {'apple', 'orange', 'pear'}
print('orange' in basket)
print(len(basket | {'kiwi'}))

a = set('abracad')
b = set('alacaz')
print(len(a - b), len(a & b))

tel = {'jack': 4098, 'sape': 4139}
tel['guido'] = 4127
print(tel['jack'])
del tel['sape']
print(list(tel))
print('guido' in tel)

print({x: x ** 2 for x in (2, 4, 6)})

knights = {'gallahad': 'pure', 'robin': 'brave'}
for k, v in knights.items():
    print(k, v)

for i, v in enumerate(['tic', 'tac', 'toe']):
    print(i, v)

questions = ['name', 'quest']
answers = ['lancelot', 'grail']
for q, a in zip(questions, answers):
    print(q + ': ' + a)

for i in reversed(range(1, 8, 3)):
    print(i)

values = [5, 2, 9]
for v in sorted(values):
    print(v)
print(max(values) - min(values))

first, second = '', 'Hammer'
chosen = first or second
print(chosen)
print(1 < 2 < 3, not first)

year = 2016
event = 'vote'
print(f'{event} of {year}')
print('{} and {}'.format('ham', 3))

for x in range(1, 4):
    print(str(x).rjust(2), str(x * x).rjust(3))

try:
    value = int('x7')
except ValueError:
    value = 7
print(value)

def divide(x, y):
    try:
        result = x / y
    except ZeroDivisionError:
        print('zero')
        result = 0
    else:
        print('fine')
    finally:
        print('done')
    return result
print(divide(8, 2))
print(divide(3, 0))

class Dog:
    def __init__(self, name):
        self.name = name
        self.tricks = []
    def add(self, trick):
        self.tricks.append(trick)
d = Dog('Fido')
d.add('roll')
print(d.name, d.tricks)

class Counter:
    def __init__(self, start):
        self.value = start
    def step(self, by):
        self.value += by
        return self.value
c = Counter(10)
print(c.step(5))
print(c.step(2))

def outer():
    count = 3
    def inner():
        nonlocal count
        count += 4
    inner()
    return count
print(outer())

def reverse(data):
    for index in range(len(data) - 1, -1, -1):
        yield data[index]
for letter in reverse('gold'):
    print(letter)

total = 0
for x in [10, 20, 30]:
    total += x
average = total / 3
print(total, average)

text = 'a line of words'
parts = text.split()
parts[0] = 'the'
print(' '.join(parts))
print(text.upper())

n = 5
while True:
    n -= 2
    if n < 0:
        break
    print(n)

status = 404
match status:
    case 400:
        print('bad')
    case 404 | 410:
        print('gone')
    case _:
        print('other')

point = (0, 3)
match point:
    case (0, 0):
        print('origin')
    case (0, y):
        print('y', y)
    case (x, y):
        print(x, y)

import math
print(math.floor(3.7), math.gcd(12, 18))
print(math.comb(5, 2))

bits = 12
mask = 10
print(bits & mask, bits | mask, bits ^ mask)
print(bits << 2, ~mask)

names = ['Ada', 'Grace', 'Alan']
lengths = {}
for name in names:
    lengths[name] = len(name)
print(lengths)

def power(base, exponent):
    if exponent == 0:
        return 1
    return base * power(base, exponent - 1)
print(power(2, 5))

count = 0
for letter in 'mississippi':
    if letter in 'is':
        count += 1
print(count)

temperatures = [12, 18, 25]
for c in temperatures:
    f = c * 9 // 5 + 32
    if f > 70:
        print(f, 'warm')
    else:
        print(f, 'cool')
"""
